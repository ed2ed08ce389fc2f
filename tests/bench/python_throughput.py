#!/usr/bin/env python3
"""Compares the Python client with the C++ client: GB/s of 64 MiB tensors, both ways together.

    tests/bench/python_throughput.py HOST:PORT [build/release/bin/sagectl]

A mask without blocks leaves the transport as the work: q and k go up, the output comes back, 192 MiB a
call; v, which no query reads, stays here. The output goes to the same memory each time, as with the C++
client. Rounds of both clients alternate, so that what else the machine does falls on both; printed are
medians over all calls, of the bytes that the server counted, and of the rounds' ratios their quartiles.
"""

import json
import statistics
import subprocess
import sys
import time

import numpy as np
from sage_client import Band, Client

HEADS, SEQLEN, HEAD_DIM = 64, 4096, 128
NOTHING = 100_000  # blocks off the diagonal, where none is
ROUNDS, CALLS = 8, 5


def cpp_rate(server, sagectl, connections):
    """GB/s of the C++ client, in the median of some calls."""
    command = f"{sagectl} bench --server {server} --connections {connections} --heads {HEADS}"
    command += f" --seqlen {SEQLEN} --head-dim {HEAD_DIM} --pattern band:{NOTHING},{NOTHING}"
    command += f" --warmup 1 --repeat {CALLS} --json"
    report = subprocess.run(command.split(), stdout=subprocess.PIPE, check=True).stdout
    (case,) = json.loads(report)["cases"]
    return (case["bytes_in"] + case["bytes_out"]) / case["seconds"]["wall"]["median"] / 1e9


def python_rate(client, q, k, v, out):
    """The same of the Python client."""
    seconds = []
    for _ in range(1 + CALLS):
        start = time.perf_counter()
        answer = client.attend(q, k, v, Band(NOTHING, NOTHING), out=out)
        seconds.append(time.perf_counter() - start)
    payload = sum(part.bytes_in + part.bytes_out for part in answer.parts)
    return payload / statistics.median(seconds[1:]) / 1e9


def main():
    server, sagectl = sys.argv[1], (sys.argv[2:] or ["build/release/bin/sagectl"])[0]
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, HEADS, SEQLEN, HEAD_DIM), np.float32)
    q, k, v = (x.astype(np.float16) for x in (q, k, v))
    out = np.zeros_like(q)
    print("connections  C++ GB/s  Python GB/s  ratio  of rounds")
    for connections in (1, 4):
        client = Client(server, connections=connections)
        cpp, python = [], []
        for _ in range(ROUNDS):
            cpp.append(cpp_rate(server, sagectl, connections))
            python.append(python_rate(client, q, k, v, out))
        rates = [statistics.median(rates) for rates in (cpp, python)]
        first, _, third = statistics.quantiles((p / c for c, p in zip(cpp, python)), n=4)
        print(
            f"{connections:11}  {rates[0]:8.2f}  {rates[1]:11.2f}  {rates[1] / rates[0]:5.2f}"
            f"  {first:.2f} to {third:.2f}"
        )


if __name__ == "__main__":
    main()
