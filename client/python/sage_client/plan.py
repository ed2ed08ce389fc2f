"""The server's plan of a streamed request, checked before anything is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import broken_protocol
from .problem import BLOCK_M, Problem, ceil_div

_SMALLEST_CHUNK = 16


@dataclass(frozen=True)
class Unit:
    """Some heads of one batch entry and a range of their query rows."""

    batch: int
    heads_kv: slice
    heads_q: slice
    rows: slice
    carries_kv: bool  # k and v of these heads travel with this unit


@dataclass(frozen=True)
class Plan:
    """Units in the order in which they are sent."""

    units: Sequence[Unit]
    window_bytes: int
    chunk_bytes: int  # of one message, a multiple of 16
    omits_unused_kv: bool


def check_plan(problem: Problem, accepted: Any, chunk_bytes: int, server: str) -> Plan:
    """The plan of an `Accepted`.

    SageError INTERNAL unless the units lie within the problem, cover every query row of every head
    exactly once and take k and v from an earlier unit that carries the same ones.
    """
    covered = np.zeros((problem.batch, problem.num_heads_kv, problem.tiles_q), np.int32)
    units = []
    for index, unit in enumerate(accepted.units):
        heads = slice(unit.kv_head_begin, unit.kv_head_begin + unit.kv_head_count)
        rows = slice(unit.q_begin, unit.q_begin + unit.q_count)
        usable = (
            0 <= unit.batch < problem.batch
            and 0 <= heads.start < heads.stop <= problem.num_heads_kv
            and 0 <= rows.start < rows.stop <= problem.seqlen_q
            and rows.start % BLOCK_M == 0
            and (rows.stop % BLOCK_M == 0 or rows.stop == problem.seqlen_q)
            and unit.kv_unit <= index
        )
        if not usable or not _same_keys(accepted.units[unit.kv_unit], unit):
            raise broken_protocol(f"unit {index} of its plan is not usable", server)
        covered[unit.batch, heads, rows.start // BLOCK_M : ceil_div(rows.stop, BLOCK_M)] += 1
        group = problem.group_size
        heads_q = slice(heads.start * group, heads.stop * group)
        units.append(Unit(unit.batch, heads, heads_q, rows, unit.kv_unit == index))
    if (covered != 1).any():
        raise broken_protocol("its plan does not cover every query row once", server)
    chunk_bytes = min(chunk_bytes, accepted.max_chunk_bytes)
    if chunk_bytes < _SMALLEST_CHUNK:
        raise broken_protocol(f"chunks of {chunk_bytes} bytes at most", server)
    chunk_bytes -= chunk_bytes % _SMALLEST_CHUNK
    return Plan(units, accepted.window_bytes, chunk_bytes, accepted.omits_unused_kv)


def _same_keys(carrier: Any, unit: Any) -> bool:
    return bool(
        carrier.kv_unit == unit.kv_unit
        and carrier.batch == unit.batch
        and carrier.kv_head_begin == unit.kv_head_begin
        and carrier.kv_head_count == unit.kv_head_count
    )
