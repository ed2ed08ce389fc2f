"""The same attention computed here, in numpy: exact in float32, and slow.

For callers that ask for it where no server can be reached.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .blocks import Bools, listed_blocks
from .job import Job, as_hnd
from .problem import BLOCK_M, BLOCK_N
from .tensors import narrow


def attend(job: Job) -> None:
    """Writes the job's output and lse."""
    problem = job.problem
    q, k, v = (operand.floats() for operand in job.operands)
    blocks = listed_blocks(job.mask, problem)
    scale = np.float32(problem.softmax_scale or problem.head_dim**-0.5)
    assert job.out is not None
    out = as_hnd(job.out, problem.layout)
    for batch in range(problem.batch):
        rows, keys = problem.lengths(batch)
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
