"""Jobs, computed: each on one server, by the call that suits its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .channels import channel
from .credentials import Server
from .effort import Effort
from .inline_call import attend_inline
from .job import Job
from .stream_call import attend_stream
from .tensors import FLOAT32

# The server takes messages of up to 3 MiB, fields and mask included.
_INLINE_BYTES = 5 << 19


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
    """The answer to an attend.

    Attributes:
        out: q's shape and layout; a numpy array, or a torch tensor on q's device, as q was. What
            was given as `out`, if anything was.
        lse: float32 [B, Hq, Sq], natural log, of out's kind; None unless asked for.
        parts: how each part of the heads fared; empty where it was computed locally.

    """

    out: Any
    lse: Any
    parts: tuple[Part, ...]


def answer(job: Job, parts: Sequence[Part], out: Any) -> Attention:
    """What a computed job's caller gets; `out` is what it gave for the output, or None."""
    if out is None:
        assert job.out is not None
        out = job.kind.array(job.out, job.problem.output_dtype)
    lse = None if job.lse is None else job.kind.array(job.lse, FLOAT32)
    return Attention(out, lse, tuple(parts))


def attend(job: Job, servers: Sequence[Server], connection: int, effort: Effort) -> Part:
    """Computes a job on the first server, or where that may help on the next ones."""
    if job.prequantize:
        job = job.prequantized()
    call = attend_inline if job.message_bytes <= _INLINE_BYTES else attend_stream

    def try_on(server: Server) -> Part:
        trailer = call(
            channel(server, connection), server.address, job, effort.remaining(), effort.cancel
        )
        return Part(
            server=server.address,
            seconds={field.name: value for field, value in trailer.timings.ListFields()},
            effective_tops=trailer.effective_tops,
            block_density=trailer.block_density,
            bytes_in=trailer.bytes_in,
            bytes_out=trailer.bytes_out,
        )

    return effort.persist(servers, try_on)
