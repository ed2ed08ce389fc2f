"""K and V kept at the servers: put once, attended to many times."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from . import tensor_calls
from .attend import Attention, Part, answer, attend
from .credentials import Server
from .effort import Effort
from .errors import SageError
from .job import Job, Operand
from .request import Options, make_job
from .tensors import Array

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

_CLEAN_UP_SECONDS = 5.0

_log = logging.getLogger("sage_client")


@dataclass(frozen=True)
class StoredPart:
    """Some KV heads, at one server."""

    server: Server
    heads: range
    k: Any  # wire.TensorHandle
    v: Any
    lease_seconds: float


class KeyValues:
    """K and V at the servers, made by `Client.put`. Thread-safe.

    Each server holds some of the heads, for the time of a lease; q alone travels then. A server
    that was started anew, or where the lease has ended, answers NOT_FOUND: put again. As a context
    manager it is released at the end.

    Attributes:
        shape: of k and v, in `tensor_layout`.
        tensor_layout: "HND" or "NHD"; q's too.
        lease_seconds: the shortest lease that a server granted last.

    """

    def __init__(
        self,
        k: Operand,
        v: Operand,
        parts: Sequence[StoredPart],
        timeout: float | None,
        retries: int,
    ) -> None:
        self._k, self._v = k.stand_in(), v.stand_in()
        self._parts = tuple(parts)
        self._timeout = timeout
        self._retries = retries
        self.shape: tuple[int, ...] = k.bits.shape
        self.tensor_layout = k.layout
        self.lease_seconds = min(part.lease_seconds for part in parts)

    def attend(
        self,
        q: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Attention:
        """`Client.attend` with this k and v. `prequantize` is not for it."""
        job = self._job(q, mask_id, is_causal, **options)
        return self._run(q, job, self._effort(timeout))

    async def attend_async(
        self,
        q: Array,
        mask_id: Array = None,
        is_causal: bool = False,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Attention:
        """`attend` as a coroutine, on the loop's default executor; cancelling it ends the call."""
        job = self._job(q, mask_id, is_causal, **options)
        effort = self._effort(timeout)
        return await effort.in_background(partial(self._run, q, job, effort))

    def renew(self, lease: float | None = None, *, timeout: float | None = None) -> None:
        """Makes the lease last so many seconds from now; None for the server's default.

        NOT_FOUND if a part is gone.
        """
        effort = self._effort(timeout)

        granted = effort.together(
            [
                partial(tensor_calls.renew, part.server, [part.k, part.v], lease, effort)
                for part in self._parts
            ]
        )
        self.lease_seconds = min(granted)

    def release(self, *, timeout: float | None = None) -> None:
        """Frees the tensors, once no running request uses them. Twice is not an error."""
        effort = self._effort(timeout)
        effort.together(
            [
                partial(tensor_calls.release, part.server, [part.k, part.v], effort)
                for part in self._parts
            ]
        )

    def __enter__(self) -> KeyValues:
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

    def _effort(self, timeout: float | None) -> Effort:
        return Effort(self._timeout if timeout is None else timeout, self._retries)

    def _job(self, q: Array, mask_id: Array, is_causal: bool, **options: Unpack[Options]) -> Job:
        return make_job(q, self._k, self._v, mask_id, is_causal, self.tensor_layout, **options)

    def _run(self, q: Array, job: Job, effort: Effort) -> Attention:
        def attend_part(part: StoredPart) -> Part:
            share = job.of_heads(part.heads).with_handles(part.k, part.v)
            return attend(share, [part.server], 0, effort)

        return answer(q, job, effort.together([partial(attend_part, p) for p in self._parts]))


def put(
    k: Operand,
    v: Operand,
    shares: Sequence[tuple[Server, range]],
    precisions: Sequence[str],
    lease: float | None,
    effort: Effort,
) -> list[StoredPart]:
    """Stores each server's share of the KV heads; all of them, or none."""
    handles: list[tuple[Server, Any]] = []

    def put_share(server: Server, heads: range) -> StoredPart:
        group = uuid.uuid4().hex  # k and v on one device, other pairs on any
        stored = []
        for operand in (k, v):
            share = operand.of_heads(slice(heads.start, heads.stop))
            response = tensor_calls.put(server, share, group, precisions, lease, effort)
            handles.append((server, response.handle))
            stored.append(response)
        granted = min(tensor_calls.seconds(response.lease) for response in stored)
        return StoredPart(server, heads, stored[0].handle, stored[1].handle, granted)

    try:
        return effort.together([partial(put_share, *share) for share in shares])
    except BaseException:
        clean_up = Effort(_CLEAN_UP_SECONDS, 0)
        for server, handle in handles:
            try:
                tensor_calls.release(server, [handle], clean_up)
            except SageError as failure:  # the lease ends by itself
                _log.warning("not released: %s", failure)
        raise
