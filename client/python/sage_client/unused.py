"""Blocks of keys that no query of a job reads, which need not travel.

The rules are those of AttendHeader.omit_unused_kv in proto/sage/v1/attention.proto.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .blocks import Bools, used_blocks
from .job import Bits, Job, Operand
from .masks import KeptMask, PackedMask
from .plan import Unit
from .problem import BLOCK_N
from .tensors import INT8

# Less than this part of the keys does not pay for gathering the others.
_WORTH_LEAVING_OUT = 1 / 8
# Blocks of a mask by formula that are evaluated here to find out.
_MOST_BLOCKS = 1 << 26


@dataclass(frozen=True)
class Unused:
    """What need not travel of a job's k and v."""

    used: Bools  # [B, Hkv, blocks]
    seqlen_k: int
    precision: str

    def keys_of(self, operand: Operand, unit: Unit) -> Bits | None:
        """Rows of k or v that travel with a unit; None for all."""
        if not _may_leave_out(operand, self.precision):
            return None
        used = self.used[unit.batch, unit.heads_kv].any(axis=0)
        return np.flatnonzero(np.repeat(used, BLOCK_N)[: self.seqlen_k])


def find_unused(job: Job) -> Unused | None:
    """None where all blocks are to be sent: what is left out would be little, or may not be."""
    problem, mask = job.problem, job.mask
    if isinstance(mask, KeptMask):
        return None
    if not any(_may_leave_out(operand, problem.precision) for operand in (job.k, job.v)):
        return None
    if not isinstance(mask, PackedMask) and problem.tiles_q * problem.blocks_k > _MOST_BLOCKS:
        return None
    used = used_blocks(mask, problem)
    if used.mean() > 1 - _WORTH_LEAVING_OUT:
        return None
    return Unused(used, problem.seqlen_k, problem.precision)


def _may_leave_out(operand: Operand, precision: str) -> bool:
    """Whether nothing is made of all blocks of k or v: k's smoothing vector, or v's scales."""
    if operand.resident:
        return False
    if operand.field == "v":
        return precision != "qk_int8_pv_fp8"
    return precision == "fp16" or operand.wire_dtype is INT8
