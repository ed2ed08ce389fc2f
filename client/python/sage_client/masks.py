"""Block masks: 128 query rows by 64 keys, 1 compute, 0 skip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from . import wire
from .errors import invalid
from .problem import HeadRange, Problem, as_slice
from .tensors import Array, mask_values


@dataclass(frozen=True)
class SlidingWindow:
    """Blocks from `left_blocks` before the diagonal to `right_blocks` after it."""

    left_blocks: int
    right_blocks: int


@dataclass(frozen=True)
class SinkWindow:
    """The first `sink_blocks`, and those from `left_blocks` before the diagonal up to it."""

    sink_blocks: int
    left_blocks: int


@dataclass(frozen=True)
class Strided:
    """Every `stride_blocks`-th block from `phase_blocks` on, and the last ones to the diagonal."""

    stride_blocks: int
    phase_blocks: int = 0
    local_blocks: int = 0


@dataclass(frozen=True)
class Band:
    """Blocks whose distance from the diagonal is within [lower_blocks, upper_blocks]."""

    lower_blocks: int
    upper_blocks: int


@dataclass(frozen=True)
class Documents:
    """Documents packed into one sequence; each attends to itself, rounded out to blocks."""

    lengths: Sequence[int]


# By formula, evaluated by the server; proto/sage/v1/types.proto has the exact definitions. The
# fields above have the contract's names.
Pattern = Union[SlidingWindow, SinkWindow, Strided, Band, Documents]
PATTERN_FIELDS = {
    SlidingWindow: "sliding_window",
    SinkWindow: "sink_window",
    Strided: "strided",
    Band: "band",
    Documents: "documents",
}


_LARGEST = 1 << 40  # no sequence has so many blocks


@dataclass(frozen=True)
class PackedMask:
    """A mask as it travels: bits [1 or B, 1 or Hq, tiles, bytes], LSB first."""

    bits: np.ndarray[Any, Any]

    def of(self, part: HeadRange) -> PackedMask:
        """The mask of a part of the problem."""
        bits = self.bits
        if bits.shape[0] > 1:
            bits = bits[as_slice(part.batch)]
        if bits.shape[1] > 1:
            bits = bits[:, as_slice(part.q)]
        return PackedMask(bits)


@dataclass(frozen=True)
class KeptMask:
    """A mask at the server; its handle there, once it is known which server's."""

    handle: Any = None


def pack_mask(mask: Array, problem: Problem) -> PackedMask:
    """Checks a block mask of 2, 3 or 4 dimensions and packs it.

    [tiles, blocks] holds for every head, [heads, tiles, blocks] for every batch entry. Any integer
    or boolean dtype, values 0 and 1. InvalidArgumentError states the right shape.
    """
    values = mask_values(mask)
    shape = (1,) * (4 - values.ndim) + values.shape
    allowed = ((1, problem.batch), (1, problem.num_heads_q))
    right: tuple[int, ...] = (problem.tiles_q, problem.blocks_k)
    if (
        not 2 <= values.ndim <= 4
        or any(size not in sizes for size, sizes in zip(shape, allowed))
        or shape[2:] != right
    ):
        raise invalid(
            "mask_id.shape",
            list(values.shape),
            f"[1 or {problem.batch}, 1 or {problem.num_heads_q}, {right[0]}, {right[1]}], that is"
            f" ceil({problem.seqlen_q} / 128) by ceil({problem.seqlen_k} / 64) blocks;"
            " leading dimensions of 1 may be left out",
        )
    if values.dtype != np.bool_:
        if not np.issubdtype(values.dtype, np.integer):
            raise invalid("mask_id.dtype", values.dtype, "bool and integers")
        if ((values != 0) & (values != 1)).any():
            raise invalid("mask_id", "values other than 0 and 1", "1 to compute, 0 to skip a block")
    return PackedMask(np.packbits(values.reshape(shape) != 0, axis=-1, bitorder="little"))


Mask = Union[PackedMask, KeptMask, Pattern, None]


def read_mask(mask: Array, problem: Problem) -> Mask:
    """A caller's mask: None, a pattern, blocks to be packed, or one that is kept."""
    if mask is None or isinstance(mask, KeptMask):
        return mask
    if type(mask) in PATTERN_FIELDS:
        _check_pattern(mask, problem)
        return mask  # type: ignore[no-any-return]
    return pack_mask(mask, problem)


def _check_pattern(pattern: Any, problem: Problem) -> None:
    """InvalidArgumentError unless the formula's numbers are what it takes."""

    def within(field: str, least: int, most: int = _LARGEST) -> None:
        value = getattr(pattern, field)
        if not least <= value <= most:
            raise invalid(f"mask_id.{field}", value, f"{least} to {most}")

    if isinstance(pattern, Documents):
        lengths, keys = pattern.lengths, problem.seqlen_k
        if problem.seqlen_q != keys:
            raise invalid("mask_id.lengths", f"documents for {problem.seqlen_q} rows", f"{keys}")
        if min(lengths, default=0) < 1 or sum(lengths) != keys:
            raise invalid("mask_id.lengths", list(lengths), f"1 and more each, {keys} in all")
    elif isinstance(pattern, Band):
        within("lower_blocks", -_LARGEST)
        within("upper_blocks", pattern.lower_blocks)
    elif isinstance(pattern, Strided):
        within("stride_blocks", 1)
        within("phase_blocks", 0, pattern.stride_blocks - 1)
        within("local_blocks", 0)
    else:
        for field in vars(pattern):
            within(field, 0)


def to_wire(mask: PackedMask | KeptMask | Pattern) -> Any:
    """The mask as a message."""
    if isinstance(mask, KeptMask):
        return wire.BlockMask(handle=mask.handle)
    if isinstance(mask, PackedMask):
        batch, heads = mask.bits.shape[:2]
        packed = {"batch": batch, "num_heads": heads, "bits": mask.bits.tobytes()}
        return wire.BlockMask(packed=packed)
    return wire.BlockMask(pattern={PATTERN_FIELDS[type(mask)]: vars(mask)})
