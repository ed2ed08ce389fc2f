"""One attention with its tensors: what travels, and where the answer goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import quantize, wire
from .masks import Mask, PackedMask, to_wire
from .plan import Unit
from .problem import Problem
from .tensors import INT8, DType, HostTensor, narrow, widen

Bits = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Operand:
    """q, k or v, and how its pieces become bytes.

    Elements whose type is not the problem's are converted piece by piece, on their way.
    """

    field: str
    bits: Bits  # [B, H, S, D] in the problem's layout, of any strides
    dtype: DType
    source: Any = None  # wire.Operand: scales of INT8 elements

    def payload(self, problem: Problem, unit: Unit) -> memoryview:
        """The unit's elements as on the wire; without a copy where they lie so already."""
        heads, rows = unit.heads_kv, slice(None)
        if self.field == "q":
            heads, rows = unit.heads_q, unit.rows
        piece = self._on_wire(problem, select(self.bits, problem, unit.batch, heads, rows))
        return as_bytes(piece)

    def all_bytes(self, problem: Problem) -> bytes:
        """All elements as on the wire."""
        return self._on_wire(problem, self.bits).tobytes()

    def of_heads(self, problem: Problem, heads: slice) -> Operand:
        """The operand of some heads, as a view."""
        return replace(self, bits=self.bits[(slice(None),) * problem.head_axis + (heads,)])

    def floats(self, problem: Problem) -> quantize.Floats:
        """All elements as fp32 [B, H, S, D], of the values that would travel."""
        on_wire = HostTensor(self._on_wire(problem, self.bits), problem.dtype)
        return as_hnd(widen(on_wire), problem)

    def quantized(self, problem: Problem, q: quantize.Quantized, **details: Any) -> Operand:
        """The operand with `sage1` values in place of its elements."""
        scales = {"scales": q.scales.tobytes(), **details}
        source = wire.Operand(quantized=scales)
        return Operand(self.field, as_hnd(q.values, problem), INT8, source)

    def _on_wire(self, problem: Problem, bits: Bits) -> Bits:
        if self.dtype not in (problem.dtype, INT8):
            bits = narrow(self.field, widen(HostTensor(bits, self.dtype)), problem.dtype)
        return np.ascontiguousarray(bits)


def as_bytes(array: Bits) -> memoryview:
    """The memory of a contiguous array."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def select(tensor: Bits, problem: Problem, batch: int, heads: slice, rows: slice) -> Bits:
    """A view of some heads and rows of one batch entry of a tensor in the problem's layout."""
    return tensor[(batch, heads, rows) if problem.layout == "HND" else (batch, rows, heads)]


def as_hnd(tensor: Bits, problem: Problem) -> Bits:
    """A view with heads and rows exchanged if the layout has them so; its own inverse."""
    return tensor if problem.layout == "HND" else tensor.transpose(0, 2, 1, 3)


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
        elements = sum(operand.bits.size for operand in self.operands)
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
            q=self.q.of_heads(problem, q),
            k=self.k.of_heads(problem, kv),
            v=self.v.of_heads(problem, kv),
            mask=mask,
            out=self.out[(slice(None),) * problem.head_axis + (q,)],
            lse=None if self.lse is None else self.lse[:, q],
            request_id=self.request_id,
            prequantize=self.prequantize,
        )

    def prequantized(self) -> Job:
        """The job with q and k as `sage1` values: fewer bytes, the same answer."""
        problem = self.problem
        q, k = self.q.floats(problem), self.k.floats(problem)
        c = quantize.smoothing(k)
        dot = {}
        if problem.return_lse:
            c_of_q = np.repeat(c, problem.group_size, axis=1)
            dot["dot_smoothing"] = quantize.dot_smoothing(q, c_of_q).tobytes()
        return replace(
            self,
            q=self.q.quantized(problem, quantize.quantize_q(q), **dot),
            k=self.k.quantized(problem, quantize.quantize_k(k, c), smoothing=c.tobytes()),
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
