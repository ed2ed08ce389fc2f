"""One attention with its tensors: what travels, and where the answer goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import quantize, wire
from .masks import Mask, PackedMask, to_wire
from .plan import Unit
from .problem import HeadRange, Problem, as_slice, ceil_div
from .tensors import INT8, DType, HostTensor, Kind, narrow, widen

Bits = np.ndarray[Any, Any]

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Operand:
    """q, k or v, and how its pieces become bytes.

    Elements whose type is not that of the wire are converted piece by piece, on their way.
    """

    field: str
    bits: Bits  # [B, H, S, D] in the layout, of any strides
    dtype: DType  # of `bits`
    wire_dtype: DType
    layout: str
    source: Any = None  # wire.Operand: scales of INT8 elements, or a resident tensor's handle
    resident: bool = False  # at the server: nothing travels, and `bits` has a shape alone

    def payload(self, unit: Unit, keys: Bits | None = None) -> memoryview:
        """The unit's elements as on the wire; without a copy where they lie so already.

        `keys`: the rows of k or v that travel; None for all.
        """
        if self.resident:
            return memoryview(b"")
        heads, rows = unit.heads_kv, slice(None)
        if self.field == "q":
            heads, rows = unit.heads_q, unit.rows
        bits = select(self.bits, self.layout, unit.batch, heads, rows)
        if keys is not None:
            bits = bits.take(keys, axis=1 if self.layout == "HND" else 0)
        return as_bytes(self._on_wire(bits))

    @property
    def travelling_elements(self) -> int:
        """How many elements there are to send."""
        return 0 if self.resident else self.bits.size

    def row_bytes(self, heads: slice) -> int:
        """Bytes on the wire of one row of some heads."""
        count: int = heads.stop - heads.start
        return count * int(self.bits.shape[3]) * self.wire_dtype.bits.itemsize

    def all_bytes(self) -> bytes:
        """All elements as on the wire."""
        return b"" if self.resident else self._on_wire(self.bits).tobytes()

    def pieces(self) -> Iterator[memoryview]:
        """All elements as on the wire, some heads or tokens at a time."""
        for entry in self.bits:
            step = ceil_div(_PIECE_BYTES, entry[0].nbytes)
            for begin in range(0, len(entry), step):
                yield as_bytes(self._on_wire(entry[begin : begin + step]))

    def kept_as(self, handle: Any) -> Operand:
        """The operand of a request that reads it at the server."""
        return replace(self, source=wire.Operand(handle=handle))

    def of(self, batch: range, heads: range) -> Operand:
        """The operand of some batch entries and heads, as a view."""
        return replace(self, bits=self.bits[part_of(self.layout, batch, heads)])

    def floats(self) -> quantize.Floats:
        """All elements as fp32 [B, H, S, D], of the values that would travel."""
        return as_hnd(widen(HostTensor(self._on_wire(self.bits), self.wire_dtype)), self.layout)

    def quantized(self, q: quantize.Quantized, **details: Any) -> Operand:
        """The operand with `sage1` values in place of its elements."""
        source = wire.Operand(quantized={"scales": q.scales.tobytes(), **details})
        return replace(
            self, bits=as_hnd(q.values, self.layout), dtype=INT8, wire_dtype=INT8, source=source
        )

    def _on_wire(self, bits: Bits) -> Bits:
        if self.dtype is not self.wire_dtype:
            bits = narrow(self.field, widen(HostTensor(bits, self.dtype)), self.wire_dtype)
        return np.ascontiguousarray(bits)


def stand_in(field: str, shape: tuple[int, ...], dtype: DType, layout: str) -> Operand:
    """What is here of an operand that is kept at a server: its shape and type."""
    shape_alone = np.broadcast_to(np.zeros((), dtype.bits), shape)
    return Operand(field, shape_alone, dtype, dtype, layout, resident=True)


def as_bytes(array: Bits) -> memoryview:
    """The memory of a contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def part_of(layout: str, batch: range, heads: range) -> Any:
    """The index of some batch entries and heads of a tensor in a layout."""
    by_batch, by_head = as_slice(batch), as_slice(heads)
    return (by_batch, by_head) if layout == "HND" else (by_batch, slice(None), by_head)


def select(tensor: Bits, layout: str, batch: int, heads: slice, rows: slice) -> Bits:
    """A view of some heads and rows of one batch entry of a tensor in a layout."""
    return tensor[(batch, heads, rows) if layout == "HND" else (batch, rows, heads)]


def as_hnd(tensor: Bits, layout: str) -> Bits:
    """A view with heads and rows exchanged if the layout has them so; its own inverse."""
    return tensor if layout == "HND" else tensor.transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class Job:
    """A problem, its operands and mask, and the arrays that its answer is written to.

    Jobs over parts of the whole share all memory with it.
    """

    problem: Problem
    q: Operand
    k: Operand
    v: Operand
    mask: Mask
    out: Bits | None  # [B, Hq, Sq, D] in the problem's layout, of any strides; None: kept there
    lse: Bits | None  # [B, Hq, Sq]
    kind: Kind  # of the caller's arrays
    request_id: str
    prequantize: bool  # q and k are to travel as `sage1` values
    out_handle: Any = None  # where the output is kept
    resident_part: HeadRange | None = None  # of its resident tensors; None: all of them

    @property
    def operands(self) -> tuple[Operand, Operand, Operand]:
        """In the order in which they travel."""
        return self.q, self.k, self.v

    @property
    def message_bytes(self) -> int:
        """About the size of the request as one message, or of its answer if that is larger."""
        elements = sum(operand.travelling_elements for operand in self.operands)
        mask = self.mask.bits.size if isinstance(self.mask, PackedMask) else 0
        answer = sum(part.nbytes for part in (self.out, self.lse) if part is not None)
        return max(elements * self.problem.dtype.bits.itemsize + mask, answer)

    def of(self, part: HeadRange) -> Job:
        """A part of the job."""
        out, lse = self.out, self.lse
        return replace(
            self,
            problem=self.problem.of(part),
            q=self.q.of(part.batch, part.q),
            k=self.k.of(part.batch, part.kv),
            v=self.v.of(part.batch, part.kv),
            mask=self.mask.of(part) if isinstance(self.mask, PackedMask) else self.mask,
            out=None if out is None else out[part_of(self.problem.layout, part.batch, part.q)],
            lse=None if lse is None else lse[part_of("HND", part.batch, part.q)],
        )

    def prequantized(self) -> Job:
        """The job with q and k as `sage1` values: fewer bytes, the same answer."""
        q, k = self.q.floats(), self.k.floats()
        c = quantize.smoothing(k)
        dot = {}
        if self.problem.return_lse:
            c_of_q = np.repeat(c, self.problem.group_size, axis=1)
            dot["dot_smoothing"] = quantize.dot_smoothing(q, c_of_q).tobytes()
        return replace(
            self,
            q=self.q.quantized(quantize.quantize_q(q), **dot),
            k=self.k.quantized(quantize.quantize_k(k, c), smoothing=c.tobytes()),
        )

    def header(self) -> Any:
        """The wire header."""
        header = self.problem.header()
        header.request_id = self.request_id
        if self.mask is not None:
            header.mask.CopyFrom(to_wire(self.mask))
        for operand in self.operands:
            if operand.source is not None:
                getattr(header, operand.field).CopyFrom(operand.source)
        if self.out_handle is not None:
            header.output.handle.CopyFrom(self.out_handle)
        if self.resident_part is not None:
            header.resident_part.batch_begin = self.resident_part.batch.start
            header.resident_part.q_head_begin = self.resident_part.q.start
            header.resident_part.kv_head_begin = self.resident_part.kv.start
        return header
