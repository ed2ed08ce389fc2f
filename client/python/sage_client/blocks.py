"""Which blocks a mask lists, evaluated here, and which blocks of keys that leaves in use."""

from __future__ import annotations

from typing import Any

import numpy as np

from .masks import Band, Documents, Mask, PackedMask, SinkWindow, SlidingWindow, Strided
from .problem import BLOCK_M, BLOCK_N, Problem

Bools = np.ndarray[Any, np.dtype[np.bool_]]


def listed_blocks(mask: Mask, problem: Problem) -> Bools:
    """Blocks to compute, [1 or B, 1 or Hq, tiles, blocks], of a mask that is not resident."""
    if mask is None:
        return np.ones((1, 1, problem.tiles_q, problem.blocks_k), np.bool_)
    if isinstance(mask, PackedMask):
        bits = np.unpackbits(mask.bits, axis=-1, count=problem.blocks_k, bitorder="little")
        return bits.view(np.bool_)
    return _pattern_blocks(mask, problem)[np.newaxis, np.newaxis]


def used_blocks(mask: Mask, problem: Problem) -> Bools:
    """Blocks of keys that some query reads, [B, Hkv, blocks].

    The formula is that of AttendHeader.omit_unused_kv in proto/sage/v1/attention.proto.
    """
    listed = listed_blocks(mask, problem)
    m, n = np.arange(problem.tiles_q)[:, np.newaxis], np.arange(problem.blocks_k)
    used = np.empty((problem.batch, problem.num_heads_kv, problem.blocks_k), np.bool_)
    for batch in range(problem.batch):
        rows, keys = problem.lengths(batch)
        visible = (BLOCK_M * m < rows) & (BLOCK_N * n < keys)
        if problem.is_causal:
            visible &= BLOCK_N * n <= BLOCK_M * m + BLOCK_M - 1 + keys - rows
        by_head = (listed[batch % len(listed)] & visible).any(axis=1)
        groups = (problem.num_heads_kv, -1) if len(by_head) > 1 else (1, 1)
        used[batch] = by_head.reshape(*groups, problem.blocks_k).any(axis=1)
    return used


def _pattern_blocks(mask: Any, problem: Problem) -> Bools:
    """Formulas of proto/sage/v1/types.proto."""
    first = (
        BLOCK_M * np.arange(problem.tiles_q)[:, np.newaxis] + problem.seqlen_k - problem.seqlen_q
    )
    start, end = first // BLOCK_N, (first + BLOCK_M - 1) // BLOCK_N
    n = np.arange(problem.blocks_k)
    listed: Any | None = None
    if isinstance(mask, SlidingWindow):
        listed = (start - mask.left_blocks <= n) & (n <= end + mask.right_blocks)
    elif isinstance(mask, SinkWindow):
        listed = (n < mask.sink_blocks) | ((start - mask.left_blocks <= n) & (n <= end))
    elif isinstance(mask, Strided):
        listed = np.broadcast_to(n % mask.stride_blocks == mask.phase_blocks, (len(first), len(n)))
        if mask.local_blocks > 0:
            listed = listed | ((start - mask.local_blocks < n) & (n <= end))
    elif isinstance(mask, Band):
        listed = (mask.lower_blocks <= n - start) & (n - start <= mask.upper_blocks)
    elif isinstance(mask, Documents):
        document = np.repeat(np.arange(len(mask.lengths)), mask.lengths)
        tiles, blocks = document[::BLOCK_M], document[::BLOCK_N]
        tile_ends = document[
            np.minimum(np.arange(len(tiles)) * BLOCK_M + BLOCK_M, len(document)) - 1
        ]
        block_ends = document[
            np.minimum(np.arange(len(blocks)) * BLOCK_N + BLOCK_N, len(document)) - 1
        ]
        listed = (tiles[:, None] <= block_ends) & (blocks <= tile_ends[:, None])
    assert listed is not None
    return listed  # type: ignore[no-any-return]
