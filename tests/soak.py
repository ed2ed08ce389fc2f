"""The load of tests/soak.sh: soak.py SERVER METRICS PID MINUTES."""

from __future__ import annotations

import asyncio
import collections
import os
import random
import sys
import time
import urllib.request
from typing import Any

import grpc
import numpy as np
from oracle import LIMITS, attend, relative_l2

from sage_client import Client, SageError, wire

WORKERS = 4
CANCELLED = 0.10
MALFORMED = 0.01
VERIFIED = 0.05
RESIDENT = 0.2
PRECISIONS = ("qk_int8_pv_fp16", "qk_int8_pv_fp8", "fp16")
# What must be as before once all is over; `cached` memory is kept on purpose.
LEFT_OVER = ("in_use", "reserved", "sage_tensors", "sage_inflight")


class Soak:
    """One run's counts and its random numbers."""

    def __init__(self, server: str, seed: int) -> None:
        self.client = Client(server, timeout=120)
        self.server = server
        self.counts: collections.Counter[str] = collections.Counter()
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)

    def problem(self) -> tuple[Any, Any, Any, Any, bool]:
        """Fresh q, k, v, mask, causality; most are small, some are streamed."""
        heads = self.random.choice((1, 2, 4))
        dim = self.random.choice((64, 72, 128))
        rows, keys = (
            int(2 ** self.random.uniform(0, 12 if self.random.random() < 0.1 else 9)) for _ in "qk"
        )
        q, k, v = (
            self.numbers.standard_normal((1, heads, length, dim), np.float32).astype(np.float16)
            for length in (rows, keys, keys)
        )
        mask = self.numbers.random((heads, -(-rows // 128), -(-keys // 64))) < 0.5
        return q, k, v, mask, self.random.random() < 0.5

    async def one(self) -> None:
        """One request of some kind; its count."""
        if self.random.random() < MALFORMED:
            await asyncio.get_running_loop().run_in_executor(None, self.malformed)
            return
        q, k, v, mask, causal = self.problem()
        precision = self.random.choice(PRECISIONS)
        if self.random.random() < RESIDENT:
            loop = asyncio.get_running_loop()
            kept = await loop.run_in_executor(None, self.client.put, k, v)
            try:
                answer = await kept.attend_async(q, mask, causal, precision=precision)
            finally:
                await loop.run_in_executor(None, kept.release)
            kind = "resident"
        else:
            call = asyncio.ensure_future(
                self.client.attend_async(q, k, v, mask, causal, precision=precision)
            )
            if self.random.random() < CANCELLED / (1 - RESIDENT):
                await asyncio.sleep(self.random.uniform(0, 0.01))
                if call.cancel():
                    await asyncio.wait([call])
                    self.counts["cancelled"] += 1
                    return
                self.counts["answered before it was cancelled"] += 1
            answer = await call
            kind = "sent"
        self.counts[kind] += 1
        if self.random.random() < VERIFIED:
            error = relative_l2(answer.out, attend(q, k, v, mask, causal)[0])
            self.counts["right" if error <= LIMITS[precision, "float16"] else "wrong"] += 1

    def malformed(self) -> None:
        """Bytes that are no request, or no valid one."""
        header = {"shape": {"batch": 1 << 40}} if self.random.random() < 0.5 else {}
        junk = wire.AttendRequest(header=header).SerializeToString() + self.numbers.bytes(
            self.random.randrange(64)
        )
        with grpc.insecure_channel(self.server) as channel:
            try:
                channel.unary_unary("/sage.v1.Attention/Attend")(junk, timeout=60)
                self.counts["malformed, accepted"] += 1
            except grpc.RpcError as error:
                refused = error.code() == grpc.StatusCode.INVALID_ARGUMENT
                self.counts["malformed, refused" if refused else f"malformed, {error.code()}"] += 1

    async def work(self, end: float) -> None:
        """Requests, one after another, until the end."""
        while time.monotonic() < end:
            try:
                await self.one()
            except SageError as error:
                self.counts[f"failed: {error.code.name}"] += 1


def gauges(address: str) -> dict[str, float]:
    """What must be the same before and after."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    values = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in values if any(part in name for part in LEFT_OVER)}


def resident_mib(pid: str) -> float:
    """VmRSS."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def soak(run: Soak, pid: str, minutes: float) -> list[tuple[float, float]]:
    """Runs it; resident memory (hours, MiB) every second."""
    start = time.monotonic()
    workers = [asyncio.ensure_future(run.work(start + minutes * 60)) for _ in range(WORKERS)]
    samples = []
    while not all(worker.done() for worker in workers):
        await asyncio.wait(workers, timeout=1)
        samples.append(((time.monotonic() - start) / 3600, resident_mib(pid)))
    for worker in workers:
        worker.result()
    return samples


def trend(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope of (hours, MiB) and its standard error.

    What is kept for half a minute makes samples depend on those before: means of a minute count as one.
    """
    means = [np.mean(samples[i : i + 60], axis=0) for i in range(0, len(samples) - 59, 60)]
    if len(means) < 4:
        return float("nan"), float("nan")
    (slope, _), covariance = np.polyfit(*zip(*means), 1, cov=True)
    return float(slope), float(covariance[0, 0] ** 0.5)


def settled(address: str, wanted: dict[str, float] | None) -> dict[str, float]:
    """The gauges once they are as wanted, or after 30 s: cancelled calls end a moment later."""
    end = time.monotonic() + 30
    while (now := gauges(address)) != wanted and wanted is not None and time.monotonic() < end:
        time.sleep(0.1)
    return now


def main() -> int:
    server, metrics, pid, minutes = sys.argv[1:]
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}, {minutes} min, {WORKERS} requests at once", flush=True)
    run = Soak(server, seed)
    run.client.info()
    before = gauges(metrics)
    samples = asyncio.run(soak(run, pid, float(minutes)))
    after = settled(metrics, before)
    for name, count in sorted(run.counts.items()):
        print(f"{count:8} {name}")
    for name in before:
        print(f"{name}: {before[name]:.0f} before, {after.get(name, float('nan')):.0f} after")
    late = samples[len(samples) // 2 :]  # caches have filled by then
    slope, error = trend(late)
    print(
        f"RSS {samples[-1][1]:.1f} MiB at the end, {late[0][1]:.1f} in the middle,"
        f" slope of the second half {slope:+.2f} +- {error:.2f} MiB/h"
    )
    bad = sum(n for name, n in run.counts.items() if name.startswith(("failed", "malformed, ")))
    bad += run.counts["wrong"] - run.counts["malformed, refused"]
    print("ok" if bad == 0 and after == before else f"{bad} bad answers, or something is left")
    return 0 if bad == 0 and after == before else 1


if __name__ == "__main__":
    sys.exit(main())
