"""The same attention computed here, in numpy: exact in float32, and slow.

For callers that ask for it where no server can be reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .job import Job, as_hnd
from .masks import Band, Documents, PackedMask, SinkWindow, SlidingWindow, Strided
from .problem import BLOCK_M, BLOCK_N, Problem
from .tensors import narrow

Bools = np.ndarray[Any, np.dtype[np.bool_]]


def attend(job: Job) -> None:
    """Writes the job's output and lse."""
    problem = job.problem
    q, k, v = (operand.floats() for operand in job.operands)
    blocks = listed_blocks(job)
    scale = np.float32(problem.softmax_scale or problem.head_dim**-0.5)
    out = as_hnd(job.out, problem.layout)
    for batch in range(problem.batch):
        rows = problem.seqlens_q[batch] if problem.seqlens_q else problem.seqlen_q
        keys = problem.seqlens_k[batch] if problem.seqlens_k else problem.seqlen_k
        for head in range(problem.num_heads_q):
            kv = head // problem.group_size
            for tile in range(problem.tiles_q):
                span = slice(tile * BLOCK_M, min((tile + 1) * BLOCK_M, problem.seqlen_q))
                listed = np.repeat(_at(blocks, batch, head)[tile], BLOCK_N)[: problem.seqlen_k]
                listed[keys:] = False
                visible = np.repeat(listed[np.newaxis], span.stop - span.start, axis=0)
                row = np.arange(span.start, span.stop)[:, np.newaxis]
                if problem.is_causal:
                    visible &= np.arange(problem.seqlen_k) <= row + keys - rows
                visible &= row < rows
                scores = (q[batch, head, span] @ k[batch, kv].T) * scale
                scores[~visible] = -np.inf
                values, lse = _softmax(scores, v[batch, kv])
                out[batch, head, span] = narrow("output", values, problem.output_dtype)
                if job.lse is not None:
                    job.lse[batch, head, span] = lse


def _softmax(scores: Any, v: Any) -> Any:
    """Weighted values and lse; 0 and -inf for a row of -inf."""
    top = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=1, keepdims=True)
    seen = total > 0
    seen_total = np.where(seen, total, 1)
    with np.errstate(divide="ignore"):
        lse = np.where(seen, np.where(seen, top, 0) + np.log(seen_total), -np.inf)
    return (weights @ v) / seen_total, lse[:, 0]


def _at(blocks: Bools, batch: int, head: int) -> Bools:
    return blocks[batch % len(blocks), head % blocks.shape[1]]  # type: ignore[no-any-return]


def listed_blocks(job: Job) -> Bools:
    """Blocks to compute, [1 or B, 1 or Hq, tiles, blocks]."""
    problem, mask = job.problem, job.mask
    if mask is None:
        return np.ones((1, 1, problem.tiles_q, problem.blocks_k), np.bool_)
    if isinstance(mask, PackedMask):
        bits = np.unpackbits(mask.bits, axis=-1, count=problem.blocks_k, bitorder="little")
        return bits.astype(np.bool_)
    return _pattern_blocks(mask, problem)[np.newaxis, np.newaxis]


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
