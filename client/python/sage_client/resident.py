"""Tensors kept at the servers: K and V that are attended to many times, and what goes with them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import grpc
import numpy as np

from . import tensor_calls, wire
from .attend import Attention, Part, answer, attend
from .credentials import Server
from .effort import Effort
from .errors import SageError, invalid
from .job import Job, Operand, part_of, stand_in
from .kept import KeptTensor
from .masks import KeptMask, PackedMask, read_mask, to_wire
from .pending import Pending, awaitable, blocking
from .problem import HeadRange, Problem, check_choice, check_shapes
from .request import DEFAULT_PRECISION, Options, make_job, read_operand
from .stripes import plan_stripes, split
from .tensors import DTYPES, Array, DType, Kind, kind_of

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

_CLEAN_UP_SECONDS = 5.0

_log = logging.getLogger("sage_client")


@dataclass(frozen=True)
class Share:
    """Some KV heads, and all that goes with them, at one server."""

    server: Server
    kv: range
    group: str  # keeps its tensors on one device

    def of(self, batch: int, heads_per_kv: int) -> HeadRange:
        """The part of a tensor, or of a problem, with so many heads for each KV head."""
        heads = range(self.kv.start * heads_per_kv, self.kv.stop * heads_per_kv)
        return HeadRange(range(batch), self.kv, heads)


def spread(heads: int, servers: Sequence[Server]) -> list[Share]:
    """KV heads spread over servers."""
    parts = zip(servers, split(heads, min(heads, len(servers))))
    return [Share(server, part, uuid.uuid4().hex) for server, part in parts]


@dataclass(frozen=True)
class ToPut:
    """A share of a tensor: what it is, and its elements if it has any."""

    spec: Any  # wire.TensorSpec without lease and group
    operand: Operand | None = None


Stored = Sequence[Sequence[KeptTensor]]  # by share


@dataclass(frozen=True, eq=False)
class Home:
    """Where the tensors of a request are kept, and how hard calls to there are tried."""

    shares: Sequence[Share]
    connections: int  # to each server
    timeout: float | None
    retries: int

    def effort(self, timeout: float | None) -> Effort:
        """Of one call."""
        return Effort(self.timeout if timeout is None else timeout, self.retries)

    def store(
        self,
        share_of: Callable[[Share], Sequence[ToPut]],
        lease: float | None,
        timeout: float | None,
    ) -> Stored:
        """Stores each share of some tensors; all of them, or none."""
        duration = tensor_calls.duration(lease)
        effort = self.effort(timeout)
        stored: list[KeptTensor] = []

        def put_share(share: Share) -> list[KeptTensor]:
            kept = []
            for tensor in share_of(share):
                tensor.spec.placement_group = share.group
                kept.append(KeptTensor(share.server, tensor.spec, tensor.operand, duration, effort))
                stored.append(kept[-1])
            return kept

        try:
            return effort.together([partial(put_share, share) for share in self.shares])
        except BaseException:
            clean_up = Effort(_CLEAN_UP_SECONDS, 0)
            for tensor in stored:
                try:
                    tensor.release(clean_up)
                except SageError as failure:  # the lease ends by itself
                    _log.warning("not released: %s", failure)
            raise


class Resident:
    """What is kept at the servers until it is released, or nothing refers to it. Thread-safe.

    Its lease is renewed meanwhile. Where a server no longer has it, as after a restart, it is put
    again from the caller's memory, by the thread that renews leases or by an `attend` that uses it:
    arrays that it was made of are to stay as they were. As a context manager it is released at the
    end.
    """

    def __init__(self, home: Home, stored: Stored) -> None:
        self._home = home
        self._stored = stored

    @property
    def lease_seconds(self) -> float:
        """The shortest lease that a server granted last."""
        return min(tensor.lease_seconds for tensor in self._tensors())

    def renew(self, lease: float | None = None, *, timeout: float | None = None) -> None:
        """Makes the lease last so many seconds from each renewal; None for the server's default.

        NOT_FOUND if it was released, or where an output is gone.
        """
        duration = tensor_calls.duration(lease)
        effort = self._home.effort(timeout)
        effort.together([partial(t.extend, duration, effort) for t in self._tensors()])

    def release(self, *, timeout: float | None = None) -> None:
        """Frees it, once no running request uses it. Twice is not an error."""
        effort = self._home.effort(timeout)
        effort.together([partial(tensor.release, effort) for tensor in self._tensors()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except SageError as failure:  # the lease ends by itself
            _log.warning("not released: %s", failure)

    def _tensors(self) -> list[KeptTensor]:
        return [tensor for share in self._stored for tensor in share]

    def _part(self, user: Home, field: str, share: int) -> KeptTensor:
        """Of a request's tensor that is kept; InvalidArgumentError if it is kept elsewhere."""
        if self._home is not user:
            raise invalid(field, "one kept with other keys and values", "one of these")
        return self._stored[share][0]


class ResidentMask(Resident):
    """A mask at the servers, made by `KeyValues.put_mask`."""


class ResidentTensor(Resident):
    """Queries or an output at the servers, made by `KeyValues.put_q` or `KeyValues.put_output`.

    Attributes:
        shape: in `tensor_layout`.
        tensor_layout: "HND" or "NHD".
        dtype: "float16", "bfloat16" or "float32".

    """

    def __init__(
        self,
        home: Home,
        stored: Stored,
        shape: tuple[int, ...],
        tensor_layout: str,
        dtype: DType,
        kind: Kind,
    ) -> None:
        super().__init__(home, stored)
        self.shape = shape
        self.tensor_layout = tensor_layout
        self.dtype = dtype.name
        self._kind = kind

    def get(self, *, timeout: float | None = None) -> Array:
        """The elements, as a numpy array or torch tensor, as those that it was put with.

        An output is zeros until a request has written it, and NOT_FOUND where a server has lost it
        since then.
        """
        dtype = DTYPES[self.dtype]
        whole = np.empty(self.shape, dtype.bits)
        effort = self._home.effort(timeout)
        heads = self.shape[1 if self.tensor_layout == "HND" else 2]
        heads_per_kv = heads // self._home.shares[-1].kv.stop

        def fetch(share: Share, tensor: KeptTensor) -> None:
            part = share.of(self.shape[0], heads_per_kv)
            view = whole[part_of(self.tensor_layout, part.batch, part.q)]
            packed = np.empty(view.shape, view.dtype)
            tensor_calls.get(share.server, tensor.handle, packed, effort)
            view[...] = packed

        shares = zip(self._home.shares, self._stored)
        effort.together([partial(fetch, share, kept[0]) for share, kept in shares])
        return self._kind.array(whole, dtype)

    def _stand_in(self) -> Operand:
        """Of queries, in a request."""
        return stand_in("q", self.shape, DTYPES[self.dtype], self.tensor_layout)


class KeyValues(Resident):
    """K and V at the servers, made by `Client.put`: q alone travels then, or not even that.

    Each server holds some of the heads.

    Attributes:
        shape: of k and v, in `tensor_layout`.
        tensor_layout: "HND" or "NHD"; that of all that goes with it, too.

    """

    def __init__(self, home: Home, stored: Stored, k: Operand, v: Operand, kind: Kind) -> None:
        super().__init__(home, stored)
        self.shape: tuple[int, ...] = k.bits.shape
        self.tensor_layout = k.layout
        self._k, self._v = (stand_in(x.field, self.shape, x.wire_dtype, x.layout) for x in (k, v))
        self._kind = kind

    def _prepare(
        self,
        q: Array | ResidentTensor,
        mask_id: Array | ResidentMask = None,
        is_causal: bool = False,
        *,
        out: ResidentTensor | Array = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Pending:
        """`Client.attend` with this k and v.

        Args:
            q: as there, or what `put_q` made.
            mask_id: as there, or what `put_mask` made.
            is_causal: as there.
            out: as there, or what `put_output` made: the output is kept there, and does not travel.
            timeout: seconds, in place of the client's.
            options: as there, but for `prequantize`.

        """
        kind = q._kind if isinstance(q, ResidentTensor) else kind_of(q)
        keeps_output = isinstance(out, ResidentTensor)
        if keeps_output:
            options.setdefault("output_dtype", out.dtype)
        job = make_job(
            q._stand_in() if isinstance(q, ResidentTensor) else q,
            self._k,
            self._v,
            KeptMask() if isinstance(mask_id, ResidentMask) else mask_id,
            is_causal,
            self.tensor_layout,
            kind,
            out=None if keeps_output else out,
            keeps_output=keeps_output,
            **options,
        )
        if keeps_output and out.shape != job.problem.out_shape:
            raise invalid("out.shape", list(out.shape), f"q's, {list(job.problem.out_shape)}")
        shares = [
            _UseOfShare(job.of(part), self._kept_of(index, q, mask_id, out))
            for index, part in enumerate(self._parts(job.problem))
        ]
        effort = self._home.effort(timeout)
        return Pending(partial(self._run, job, shares, out, effort), effort)

    attend = blocking(_prepare)
    attend_async = awaitable(_prepare)

    def put_q(
        self,
        q: Array,
        *,
        dtype: str | None = None,
        lease: float | None = None,
        timeout: float | None = None,
    ) -> ResidentTensor:
        """Puts queries beside k and v; their shape and type are as for `Client.attend`.

        What answers them has the dtype that they are kept in, unless it is asked for another.
        """
        operand = read_operand("q", q, self.tensor_layout, dtype)
        shape: tuple[int, ...] = operand.bits.shape
        problem = self._problem(shape)
        if operand.wire_dtype is not self._k.wire_dtype:
            raise invalid("q.dtype", operand.wire_dtype.name, f"k's, {self._k.wire_dtype.name}")

        def share_of(share: Share) -> Sequence[ToPut]:
            part = share.of(problem.batch, problem.group_size)
            return [_elements(wire.ROLE_Q, operand.of(part.batch, part.q))]

        stored = self._home.store(share_of, lease, timeout)
        return ResidentTensor(
            self._home, stored, shape, self.tensor_layout, operand.wire_dtype, kind_of(q)
        )

    def put_mask(
        self,
        mask_id: Array,
        q_shape: Sequence[int],
        *,
        lease: float | None = None,
        timeout: float | None = None,
    ) -> ResidentMask:
        """Puts a mask, as for `Client.attend`, for queries of this shape."""
        problem = self._problem(tuple(q_shape))
        mask = read_mask(mask_id, problem)
        if mask is None or isinstance(mask, KeptMask):
            raise invalid("mask_id", mask_id, "a mask or a pattern")

        def share_of(share: Share) -> Sequence[ToPut]:
            part = share.of(problem.batch, problem.group_size)
            spec = wire.TensorSpec(
                role=wire.ROLE_MASK,
                mask=to_wire(mask.of(part) if isinstance(mask, PackedMask) else mask),
                mask_shape=problem.of(part).wire_shape(),
            )
            return [ToPut(spec)]

        return ResidentMask(self._home, self._home.store(share_of, lease, timeout))

    def put_output(
        self,
        q_shape: Sequence[int],
        *,
        dtype: str | None = None,
        lease: float | None = None,
        timeout: float | None = None,
    ) -> ResidentTensor:
        """Room for the output of queries of this shape; `dtype` is k's unless given."""
        problem = self._problem(tuple(q_shape))
        check_choice("dtype", dtype or self._k.wire_dtype.name, list(DTYPES))
        element = DTYPES[dtype] if dtype else self._k.wire_dtype

        def share_of(share: Share) -> Sequence[ToPut]:
            shape = problem.of(share.of(problem.batch, problem.group_size)).out_shape
            role = wire.ROLE_OUTPUT
            return [ToPut(tensor_calls.spec_of(role, shape, self.tensor_layout, element))]

        stored = self._home.store(share_of, lease, timeout)
        return ResidentTensor(
            self._home, stored, problem.out_shape, self.tensor_layout, element, self._kind
        )

    def _problem(self, q_shape: tuple[int, ...]) -> Problem:
        """Of queries of this shape; InvalidArgumentError if they do not fit k."""
        layout, dtype = self.tensor_layout, self._k.wire_dtype
        heads_q, heads_kv, seqlen_q, seqlen_k = check_shapes(
            q_shape, self.shape, self.shape, layout
        )
        return Problem(
            batch=q_shape[0],
            num_heads_q=heads_q,
            num_heads_kv=heads_kv,
            seqlen_q=seqlen_q,
            seqlen_k=seqlen_k,
            head_dim=q_shape[3],
            layout=layout,
            dtype=dtype,
            output_dtype=dtype,
            precision=DEFAULT_PRECISION,
            is_causal=False,
            return_lse=False,
        )

    def _parts(self, problem: Problem) -> list[HeadRange]:
        """Of a problem, by share."""
        return [share.of(problem.batch, problem.group_size) for share in self._home.shares]

    def _kept_of(self, index: int, q: Any, mask_id: Any, out: Any) -> dict[str, KeptTensor]:
        """What of a share's request is kept, by role."""
        kept = dict(zip("kv", self._stored[index]))
        if isinstance(q, ResidentTensor):
            kept["q"] = q._part(self._home, "q", index)
        if isinstance(mask_id, ResidentMask):
            kept["mask"] = mask_id._part(self._home, "mask_id", index)
        if isinstance(out, ResidentTensor):
            kept["out"] = out._part(self._home, "out", index)
        return kept

    def _run(
        self, job: Job, shares: Sequence[_UseOfShare], out: ResidentTensor | Array, effort: Effort
    ) -> Attention:
        calls = []
        for where, share in zip(self._home.shares, shares):
            stripes = plan_stripes(share.job, 1, self._home.connections)
            for connection, stripe in enumerate(stripes):
                part = replace(share.job.of(stripe), resident_part=stripe)
                use = _UseOfShare(part, share.kept)
                calls.append(partial(use.attend, where.server, connection, effort))
        return answer(job, effort.together(calls), out)


@dataclass(frozen=True)
class _UseOfShare:
    """A request, or some of it, to one server, and the tensors there that it uses."""

    job: Job
    kept: Mapping[str, KeptTensor]

    def attend(self, server: Server, connection: int, effort: Effort) -> Part:
        """Computes it; where the server has lost a tensor, once more after they are put again."""
        handles = {role: tensor.handle for role, tensor in self.kept.items()}
        try:
            return attend(self._with(handles), [server], connection, effort)
        except SageError as error:
            if error.code != grpc.StatusCode.NOT_FOUND:
                raise
            # Those that are still there keep their handles.
            for role, tensor in self.kept.items():
                if not tensor.restore(handles[role], effort):
                    raise
        handles = {role: tensor.handle for role, tensor in self.kept.items()}
        return attend(self._with(handles), [server], connection, effort)

    def _with(self, handles: Mapping[str, Any]) -> Job:
        job = self.job
        operands = {
            role: getattr(job, role).kept_as(handles[role]) for role in handles if role in "qkv"
        }
        job = replace(job, **operands)
        if "mask" in handles:
            job = replace(job, mask=KeptMask(handles["mask"]))
        if "out" in handles:
            job = replace(job, out_handle=handles["out"])
        return job


def put_key_values(
    home: Home,
    k: Operand,
    v: Operand,
    precisions: Sequence[str],
    lease: float | None,
    timeout: float | None,
    kind: Kind,
) -> KeyValues:
    """See `Client.put`."""

    def share_of(share: Share) -> Sequence[ToPut]:
        part = share.of(len(k.bits), 1)
        tensors = [
            _elements(role, operand.of(part.batch, part.kv))
            for role, operand in ((wire.ROLE_K, k), (wire.ROLE_V, v))
        ]
        tensors[0].spec.precisions.extend(wire.PRECISIONS[name] for name in precisions)
        return tensors

    return KeyValues(home, home.store(share_of, lease, timeout), k, v, kind)


def _elements(role: int, operand: Operand) -> ToPut:
    """A tensor whose elements travel."""
    shape, dtype = operand.bits.shape, operand.wire_dtype
    return ToPut(tensor_calls.spec_of(role, shape, operand.layout, dtype), operand)
