"""A large request cut into several that travel side by side."""

from __future__ import annotations

import math

from .job import Job
from .problem import HeadRange

# A stripe with less to send is not worth a connection of its own.
_STRIPE_BYTES = 8 << 20
# Keys and values that are sent again may cost this part of the whole payload.
_REPEATED_PART = 4


def split(items: int, count: int) -> list[range]:
    """Items in ranges of about equal size."""
    bounds = [items * i // count for i in range(count + 1)]
    return [range(begin, end) for begin, end in zip(bounds, bounds[1:])]


def plan_stripes(job: Job, servers: int, connections: int) -> list[HeadRange]:
    """The parts of a job, as many for each server where that can be.

    Batch entries are cut apart, then KV heads, then the query heads that share one, as long as
    sending its keys and values again costs little. Keys and values are never cut, so that the
    answer's bits are those of the whole.
    """
    problem = job.problem
    wanted = max(1, min(servers * connections, job.message_bytes // _STRIPE_BYTES))
    if wanted > servers:
        wanted -= wanted % servers
    cuts = (_cut(job, wanted, batches) for batches in range(min(wanted, problem.batch), 0, -1))
    batches, heads, groups = max(cuts, key=math.prod)
    size = problem.group_size
    return [
        HeadRange(
            batch, kv, range(kv.start * size + group.start, (kv.stop - 1) * size + group.stop)
        )
        for batch in split(problem.batch, batches)
        for kv in split(problem.num_heads_kv, heads)
        for group in split(size, groups)
    ]


def _cut(job: Job, wanted: int, batches: int) -> tuple[int, int, int]:
    """Into how many parts batch entries, KV heads and groups are cut, if the first is given."""
    problem = job.problem
    heads = min(wanted // batches, problem.num_heads_kv)
    if heads < problem.num_heads_kv:
        return batches, heads, 1
    groups = min(wanted // (batches * heads), problem.group_size)
    repeated = job.k.travelling_elements + job.v.travelling_elements
    if repeated > 0:
        payload = job.q.travelling_elements + repeated
        groups = min(groups, 1 + payload // (_REPEATED_PART * repeated))
    return batches, heads, groups
