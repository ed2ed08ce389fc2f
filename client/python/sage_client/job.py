"""One attention with its tensors: what travels, and where the answer goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import quantize, wire
from .masks import Mask, PackedMask, to_wire
from .plan import Unit
from .problem import Problem, ceil_div
from .tensors import INT8, DType, HostTensor, narrow, widen

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

    def payload(self, unit: Unit) -> memoryview:
        """The unit's elements as on the wire; without a copy where they lie so already."""
        if self.resident:
            return memoryview(b"")
        heads, rows = unit.heads_kv, slice(None)
        if self.field == "q":
            heads, rows = unit.heads_q, unit.rows
        return as_bytes(self._on_wire(select(self.bits, self.layout, unit.batch, heads, rows)))

    def all_bytes(self) -> bytes:
        """All elements as on the wire."""
        return b"" if self.resident else self._on_wire(self.bits).tobytes()

    def pieces(self) -> Iterator[memoryview]:
        """All elements as on the wire, some heads or tokens at a time."""
        for entry in self.bits:
            step = ceil_div(_PIECE_BYTES, entry[0].nbytes)
            for begin in range(0, len(entry), step):
                yield as_bytes(self._on_wire(entry[begin : begin + step]))

    def stand_in(self) -> Operand:
        """What is left here of an operand that was put at a server: its shape and type."""
        shape_alone = np.broadcast_to(np.zeros((), self.wire_dtype.bits), self.bits.shape)
        return replace(self, bits=shape_alone, dtype=self.wire_dtype, resident=True)

    def of_heads(self, heads: slice) -> Operand:
        """The operand of some heads, as a view."""
        return replace(self, bits=self.bits[of_heads(self.layout, heads)])

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


def as_bytes(array: Bits) -> memoryview:
    """The memory of a contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def of_heads(layout: str, heads: slice) -> Any:
    """The index of some heads of a tensor in a layout."""
    return (slice(None), heads) if layout == "HND" else (slice(None), slice(None), heads)


def select(tensor: Bits, layout: str, batch: int, heads: slice, rows: slice) -> Bits:
    """A view of some heads and rows of one batch entry of a tensor in a layout."""
    return tensor[(batch, heads, rows) if layout == "HND" else (batch, rows, heads)]


def as_hnd(tensor: Bits, layout: str) -> Bits:
    """A view with heads and rows exchanged if the layout has them so; its own inverse."""
    return tensor if layout == "HND" else tensor.transpose(0, 2, 1, 3)


@dataclass(frozen=True)
class Job:
    """A problem, its operands and mask, and the arrays that its answer is written to.

    Jobs over parts of the heads share all memory with the whole.
    """

    problem: Problem
    q: Operand
    k: Operand
    v: Operand
    mask: Mask
    out: Bits  # [B, Hq, Sq, D] in the problem's layout, of any strides
    lse: Bits | None  # [B, Hq, Sq]
    request_id: str
    prequantize: bool  # q and k are to travel as `sage1` values

    @property
    def operands(self) -> tuple[Operand, Operand, Operand]:
        """In the order in which they travel."""
        return self.q, self.k, self.v

    @property
    def message_bytes(self) -> int:
        """About the size of the request as one message, or of its answer if that is larger."""
        elements = sum(o.bits.size for o in self.operands if not o.resident)
        mask = self.mask.bits.size if isinstance(self.mask, PackedMask) else 0
        lse = 0 if self.lse is None else self.lse.nbytes
        return max(elements * self.problem.dtype.bits.itemsize + mask, self.out.nbytes + lse)

    def of_heads(self, heads_kv: range) -> Job:
        """The part that reads these KV heads."""
        problem = self.problem
        kv = slice(heads_kv.start, heads_kv.stop)
        q = slice(kv.start * problem.group_size, kv.stop * problem.group_size)
        mask = self.mask.of_heads(q) if isinstance(self.mask, PackedMask) else self.mask
        return Job(
            problem=problem.of_heads(heads_kv),
            q=self.q.of_heads(q),
            k=self.k.of_heads(kv),
            v=self.v.of_heads(kv),
            mask=mask,
            out=self.out[of_heads(problem.layout, q)],
            lse=None if self.lse is None else self.lse[:, q],
            request_id=self.request_id,
            prequantize=self.prequantize,
        )

    def with_handles(self, k: Any, v: Any) -> Job:
        """The job with these handles of its resident k and v."""
        return replace(
            self,
            k=replace(self.k, source=wire.Operand(handle=k)),
            v=replace(self.v, source=wire.Operand(handle=v)),
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
        return header
