"""What is asked: shapes, types and options of one attention, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import wire
from .errors import invalid
from .tensors import DType

BLOCK_M = 128  # query rows of a block
BLOCK_N = 64  # keys of a block
MAX_PRIORITY = 10

Shape = tuple[int, ...]


def ceil_div(a: int, b: int) -> int:
    """The quotient, rounded up."""
    return -(-a // b)


def as_slice(numbers: range) -> slice:
    """The same numbers, as an index that makes a view."""
    return slice(numbers.start, numbers.stop)


@dataclass(frozen=True)
class HeadRange:
    """Some batch entries and KV heads, and some of the query heads that read these."""

    batch: range
    kv: range
    q: range


@dataclass(frozen=True)
class Problem:
    """One attention. Dimensions as in proto/sage/v1/types.proto."""

    batch: int
    num_heads_q: int
    num_heads_kv: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    layout: str
    dtype: DType  # of q, k and v on the wire
    output_dtype: DType
    precision: str
    is_causal: bool
    return_lse: bool
    softmax_scale: float | None = None
    seqlens_q: tuple[int, ...] = ()
    seqlens_k: tuple[int, ...] = ()
    priority: int = 0

    @property
    def group_size(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads_q // self.num_heads_kv

    @property
    def tiles_q(self) -> int:
        """Rows of the block mask."""
        return ceil_div(self.seqlen_q, BLOCK_M)

    @property
    def blocks_k(self) -> int:
        """Columns of the block mask."""
        return ceil_div(self.seqlen_k, BLOCK_N)

    @property
    def out_shape(self) -> Shape:
        """Of the output, in the layout."""
        return self._shape(self.num_heads_q, self.seqlen_q)

    @property
    def lse_shape(self) -> Shape:
        """Of lse, in either layout."""
        return (self.batch, self.num_heads_q, self.seqlen_q)

    def _shape(self, heads: int, seqlen: int) -> Shape:
        middle = (heads, seqlen) if self.layout == "HND" else (seqlen, heads)
        return (self.batch, *middle, self.head_dim)

    def lengths(self, batch: int) -> tuple[int, int]:
        """Rows and keys of a batch entry that exist."""
        rows = self.seqlens_q[batch] if self.seqlens_q else self.seqlen_q
        return rows, self.seqlens_k[batch] if self.seqlens_k else self.seqlen_k

    def of(self, part: HeadRange) -> Problem:
        """A part of the problem."""
        return replace(
            self,
            batch=len(part.batch),
            num_heads_q=len(part.q),
            num_heads_kv=len(part.kv),
            seqlens_q=self.seqlens_q[as_slice(part.batch)],
            seqlens_k=self.seqlens_k[as_slice(part.batch)],
        )

    def wire_shape(self) -> Any:
        """The dimensions as a message."""
        return wire.AttentionShape(
            batch=self.batch,
            num_heads_q=self.num_heads_q,
            num_heads_kv=self.num_heads_kv,
            seqlen_q=self.seqlen_q,
            seqlen_k=self.seqlen_k,
            head_dim=self.head_dim,
        )

    def header(self) -> Any:
        """The wire header, without mask and operands."""
        return wire.AttendHeader(
            shape=self.wire_shape(),
            dtype=self.dtype.wire,
            output_dtype=self.output_dtype.wire,
            layout=wire.LAYOUTS[self.layout],
            precision=wire.PRECISIONS[self.precision],
            is_causal=self.is_causal,
            softmax_scale=self.softmax_scale,
            return_lse=self.return_lse,
            seqlens_q=self.seqlens_q,
            seqlens_k=self.seqlens_k,
            priority=self.priority,
        )


def check_choice(field: str, value: object, allowed: Sequence[str]) -> None:
    """InvalidArgumentError unless the value is one of those allowed."""
    if value not in allowed:
        raise invalid(field, repr(value), ", ".join(allowed))


def heads_and_length(field: str, shape: Shape, layout: str) -> tuple[int, int]:
    """Heads and sequence length of a tensor in a layout."""
    if len(shape) != 4 or 0 in shape:
        names = "[B, H, S, D]" if layout == "HND" else "[B, S, H, D]"
        raise invalid(f"{field}.shape", list(shape), f"{names}, each at least 1")
    return (shape[1], shape[2]) if layout == "HND" else (shape[2], shape[1])


def check_shapes(q: Shape, k: Shape, v: Shape, layout: str) -> tuple[int, int, int, int]:
    """Query heads, KV heads, lengths of queries and keys; InvalidArgumentError if they disagree."""
    heads_q, seqlen_q = heads_and_length("q", q, layout)
    heads_kv, seqlen_k = heads_and_length("k", k, layout)
    heads_and_length("v", v, layout)
    if v != k:
        raise invalid("v.shape", list(v), f"k's, {list(k)}")
    if k[0] != q[0] or k[3] != q[3]:
        raise invalid("k.shape", list(k), f"q's batch {q[0]} and head_dim {q[3]}")
    if q[3] % 8 != 0:
        raise invalid("head_dim", q[3], "a multiple of 8")
    if heads_q % heads_kv != 0:
        raise invalid("q.shape", f"{heads_q} heads", f"a multiple of k's {heads_kv}")
    return heads_q, heads_kv, seqlen_q, seqlen_k


def check_scale(scale: float | None) -> float | None:
    """InvalidArgumentError unless absent, or finite and positive."""
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise invalid("softmax_scale", scale, "a finite and positive number")
    return scale


def check_priority(priority: int) -> int:
    """InvalidArgumentError unless within the contract's range."""
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise invalid("priority", priority, f"-{MAX_PRIORITY} to {MAX_PRIORITY}")
    return int(priority)


def check_lengths(field: str, lengths: Any, batch: int, longest: int) -> tuple[int, ...]:
    """Lengths per batch entry as a tuple; empty if absent."""
    if lengths is None:
        return ()
    values = tuple(int(length) for length in lengths)
    if len(values) != batch:
        raise invalid(field, f"{len(values)} lengths", f"{batch}, one per batch entry")
    for value in values:
        if not 0 <= value <= longest:
            raise invalid(field, value, f"0 to {longest}")
    return values
