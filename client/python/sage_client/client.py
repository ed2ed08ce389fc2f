"""The client: attention as a call to one or several servers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from . import local, wire
from .cancellation import Cancellation
from .channels import channel
from .errors import SageError, from_rpc, invalid
from .inline_call import attend_inline
from .job import Job
from .request import Options, make_job
from .stream_call import attend_stream
from .tensors import FLOAT32, Array, like

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_SERVER = "127.0.0.1:50051"

# The server takes messages of up to 3 MiB, fields and mask included.
_INLINE_BYTES = 5 << 19
# A stripe with less to send is not worth a connection of its own.
_STRIPE_BYTES = 8 << 20
_FIRST_BACKOFF_SECONDS = 0.1
_GET_INFO = "/sage.v1.Server/GetInfo"

_log = logging.getLogger("sage_client")


@dataclass(frozen=True)
class Part:
    """How a part of a request fared: some of its heads, computed by one server.

    Attributes:
        server: which server.
        seconds: at the server, by stage; stages overlap. See Timings in proto/sage/v1/types.proto.
        effective_tops: over the kernel's seconds; skipped blocks count as done.
        block_density: computed blocks over all.
        bytes_in: payload to the server.
        bytes_out: payload from it.

    """

    server: str
    seconds: dict[str, float]
    effective_tops: float
    block_density: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True)
class Attention:
    """The answer to `Client.attend`.

    Attributes:
        out: q's shape and layout; a numpy array, or a torch tensor on q's device, as q was.
        lse: float32 [B, Hq, Sq], natural log, of out's kind; None unless asked for.
        parts: how each part of the heads fared; empty where it was computed locally.

    """

    out: Any
    lse: Any
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ServerInfo:
    """What a server is.

    Attributes:
        server: as given to the client.
        server_id: new at each start of the server.
        version: of the server.
        backend: "cpu" or "cuda".
        devices: their names.
        precisions: names as for `Client.attend`.

    """

    server: str
    server_id: str
    version: str
    backend: str
    devices: tuple[str, ...]
    precisions: tuple[str, ...]


class _Deadline:
    """A point in time, or none."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, never negative; None without a deadline."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def allows(self, seconds: float) -> bool:
        """Whether more than so many seconds are left."""
        return self._at is None or time.monotonic() + seconds < self._at


class Client:
    """Attention computed by one or several sage-serve servers.

    Thread-safe. Connections belong to the process, not to the client, and are made by the first
    call; a forked child makes its own.

    Args:
        servers: HOST:PORT or unix:PATH, one or several; large requests have their heads spread
            over all. None: what SAGE_SERVER says (several with commas), else 127.0.0.1:50051.
        connections: connections to each server that a large request may use.
        timeout: seconds for a call with all its retries, unless the call says otherwise; None for
            no limit.
        retries: how often a part of a request is sent again, to the next server where there are
            several, after UNAVAILABLE, or RESOURCE_EXHAUSTED with a time to come back. An attention
            may so be computed twice, which has no other effect.
        local_fallback: compute here, in numpy, exactly and slowly, where no server can be reached.

    Every call may raise SageError, which has the server's code and text. Its subclass
    InvalidArgumentError, a ValueError too, is raised for an input that is not valid, in most cases
    before anything is sent. TypeError is raised for what is neither an array nor a tensor.

    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        connections: int = 4,
        timeout: float | None = None,
        retries: int = 4,
        local_fallback: bool = False,
    ) -> None:
        if servers is None:
            servers = os.environ.get("SAGE_SERVER") or DEFAULT_SERVER
        if isinstance(servers, str):
            servers = [server.strip() for server in servers.split(",")]
        if not servers or not all(servers):
            raise invalid("servers", list(servers), "one or more of HOST:PORT or unix:PATH")
        if connections < 1:
            raise invalid("connections", connections, "1 and more")
        if retries < 0:
            raise invalid("retries", retries, "0 and more")
        self.servers: tuple[str, ...] = tuple(servers)
        self.connections = connections
        self.timeout = timeout
        self.retries = retries
        self.local_fallback = local_fallback
        self._turn = itertools.count()

    def sparse_sageattn(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        tensor_layout: str = "HND",
    ) -> Any:
        """The drop-in with this client: see `sage_client.sparse_sageattn`."""
        return self.attend(q, k, v, mask_id, is_causal, tensor_layout).out

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        tensor_layout: str = "HND",
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Attention:
        """Computes softmax(softmax_scale q kT) v, masked.

        Args:
            q: [B, Hq, Sq, D], or [B, Sq, Hq, D] in NHD; float16, bfloat16 or float32, which is
                rounded to float16. numpy or torch, on any device, of any strides.
            k: the same with Hkv heads, of which Hq is a multiple, and Sk.
            v: k's shape.
            mask_id: None for all blocks; a pattern such as `SlidingWindow`; or 0 and 1 (or bools)
                in [B or 1, Hq or 1, ceil(Sq/128), ceil(Sk/64)], leading ones optional.
            is_causal: row i sees keys j <= i + Sk - Sq: the last row sees all keys.
            tensor_layout: "HND" or "NHD".
            timeout: seconds, in place of the client's.
            options:
                softmax_scale: None for D^-0.5.
                precision: "qk_int8_pv_fp16" (default), "qk_int8_pv_fp8", or "fp16", which does not
                    quantise.
                return_lse: also return lse, so that answers over parts of the keys can be merged.
                seqlens_q: rows of each batch entry that exist; None for all.
                seqlens_k: keys of each batch entry that exist; None for all.
                dtype: "bfloat16" to send float32 as bfloat16; None for float16.
                output_dtype: "float16", "bfloat16" or "float32"; None for q's.
                prequantize: True sends q and k as INT8: a third fewer bytes, the same answer, for
                    the time that numpy takes to quantise. Worth it on slow networks.

        """
        job = make_job(q, k, v, mask_id, is_causal, tensor_layout, **options)
        return self._answer(q, job, self._deadline(timeout), Cancellation())

    async def attend_async(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        tensor_layout: str = "HND",
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Attention:
        """`attend` as a coroutine, on the loop's default executor; cancelling it ends the call."""
        job = make_job(q, k, v, mask_id, is_causal, tensor_layout, **options)
        cancel = Cancellation()
        running = asyncio.get_running_loop().run_in_executor(
            None, self._answer, q, job, self._deadline(timeout), cancel
        )
        try:
            return await running
        except asyncio.CancelledError:
            cancel.cancel()
            raise

    def info(self, timeout: float | None = None) -> list[ServerInfo]:
        """What each server is."""
        deadline = self._deadline(timeout)
        return [self._info(server, deadline) for server in self.servers]

    def _info(self, server: str, deadline: _Deadline) -> ServerInfo:
        get_info = channel(server).unary_unary(
            _GET_INFO,
            request_serializer=wire.GetInfoRequest.SerializeToString,
            response_deserializer=wire.ServerInfo.FromString,
        )
        try:
            info = get_info(wire.GetInfoRequest(), timeout=deadline.remaining())
        except grpc.RpcError as error:
            raise from_rpc(error, server) from None
        names = {number: name for name, number in wire.PRECISIONS.items()}
        return ServerInfo(
            server=server,
            server_id=info.server_id,
            version=info.version,
            backend=info.backend,
            devices=tuple(device.name for device in info.devices),
            precisions=tuple(names[p] for p in info.precisions if p in names),
        )

    def _deadline(self, timeout: float | None) -> _Deadline:
        return _Deadline(self.timeout if timeout is None else timeout)

    def _answer(self, q: Array, job: Job, deadline: _Deadline, cancel: Cancellation) -> Attention:
        try:
            parts = self._run(job, deadline, cancel)
        except SageError as error:
            if not self.local_fallback or error.code != grpc.StatusCode.UNAVAILABLE:
                raise
            _log.warning("computing locally: %s", error)
            local.attend(job)
            parts = ()
        lse = None if job.lse is None else like(q, job.lse, FLOAT32)
        return Attention(like(q, job.out, job.problem.output_dtype), lse, parts)

    def _run(self, job: Job, deadline: _Deadline, cancel: Cancellation) -> tuple[Part, ...]:
        """Computes the job in stripes of heads, each on a connection of its own."""
        turn = next(self._turn)
        stripes = self._stripes(job)
        if len(stripes) == 1:
            return (self._run_part(job, turn, 0, deadline, cancel),)
        with ThreadPoolExecutor(len(stripes)) as pool:
            futures = [
                pool.submit(
                    self._run_part, job.of_heads(heads),
                    turn + i, i // len(self.servers), deadline, cancel,
                )
                for i, heads in enumerate(stripes)
            ]  # fmt: skip
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failed = [future for future in done if future.exception() is not None]
                if failed:
                    failed[0].result()  # raises
            except BaseException:
                cancel.cancel()
                raise
        return tuple(future.result() for future in futures)

    def _stripes(self, job: Job) -> list[range]:
        """Ranges of KV heads of about equal size, as many for each server where that can be."""
        heads, servers = job.problem.num_heads_kv, len(self.servers)
        count = min(heads, servers * self.connections, max(1, job.message_bytes // _STRIPE_BYTES))
        if count > servers:
            count -= count % servers
        bounds = [heads * i // count for i in range(count + 1)]
        return [range(begin, end) for begin, end in zip(bounds, bounds[1:])]

    def _run_part(
        self,
        job: Job,
        first_server: int,
        connection: int,
        deadline: _Deadline,
        cancel: Cancellation,
    ) -> Part:
        """Computes a job on one server, or on the next ones where that may help."""
        if job.prequantize:
            job = job.prequantized()
        attend = attend_inline if job.message_bytes <= _INLINE_BYTES else attend_stream
        for attempt in itertools.count():
            server = self.servers[(first_server + attempt) % len(self.servers)]
            try:
                trailer = attend(
                    channel(server, connection), server, job, deadline.remaining(), cancel
                )
                break
            except SageError as error:
                delay = self._retry_delay(error, attempt)
                if delay is None or not deadline.allows(delay) or cancel.wait(delay):
                    raise
                _log.info("trying again: %s", error)
        seconds = {field.name: value for field, value in trailer.timings.ListFields()}
        return Part(
            server=server,
            seconds=seconds,
            effective_tops=trailer.effective_tops,
            block_density=trailer.block_density,
            bytes_in=trailer.bytes_in,
            bytes_out=trailer.bytes_out,
        )

    def _retry_delay(self, error: SageError, attempt: int) -> float | None:
        """Seconds to wait before the next attempt; None if there is none."""
        if not error.worth_retrying or attempt >= self.retries:
            return None
        if attempt + 1 < len(self.servers):
            return 0.0  # another server has not been asked yet
        backoff: float = _FIRST_BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1)
        return max(error.retry_delay or 0.0, backoff)
