"""Block masks: 128 query rows by 64 keys, 1 compute, 0 skip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from . import wire
from .errors import invalid
from .problem import Problem
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


@dataclass(frozen=True)
class PackedMask:
    """A mask as it travels: bits [1 or B, 1 or Hq, tiles, bytes], LSB first."""

    bits: np.ndarray[Any, Any]

    def of_heads(self, heads_q: slice) -> PackedMask:
        """The mask of some query heads."""
        if self.bits.shape[1] == 1:
            return self
        return PackedMask(self.bits[:, heads_q])


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


Mask = Union[PackedMask, Pattern, None]


def read_mask(mask: Array, problem: Problem) -> Mask:
    """A caller's mask: None, a pattern, or blocks to be packed."""
    if mask is None or type(mask) in PATTERN_FIELDS:
        return mask  # type: ignore[no-any-return]
    return pack_mask(mask, problem)


def to_wire(mask: PackedMask | Pattern) -> Any:
    """The mask as a message."""
    if isinstance(mask, PackedMask):
        batch, heads = mask.bits.shape[:2]
        packed = {"batch": batch, "num_heads": heads, "bits": mask.bits.tobytes()}
        return wire.BlockMask(packed=packed)
    return wire.BlockMask(pattern={PATTERN_FIELDS[type(mask)]: vars(mask)})
