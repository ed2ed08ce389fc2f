#!/usr/bin/env python3
"""Compares the CUDA backend's kernels with PyTorch's scaled_dot_product_attention on one GPU, in one run.

    tests/bench/compare_torch.py build/gpu/bin/gpu_attention_bench [--rounds N]

The two take turns, round by round, since clocks drift; figures are medians over the rounds, in effective TOPS
(4 B H S^2 D / time, halved when causal). Needs a CUDA build of PyTorch.
"""

import argparse
import json
import statistics
import subprocess

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [(4, 32, 2048), (1, 32, 8192), (1, 32, 32768)]  # batch, heads, seqlen
HEAD_DIMS = [128, 64]
BACKENDS = {"FlashAttention-2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
REPEATS = 10


def torch_tops(backend, batch, heads, seqlen, head_dim, causal):
    """Median rate of REPEATS calls on N(0, 1) fp16 inputs."""
    q, k, v = (torch.randn(batch, heads, seqlen, head_dim, device="cuda", dtype=torch.float16) for _ in range(3))
    operations = 4 * batch * heads * seqlen**2 * head_dim * (0.5 if causal else 1)
    seconds = []
    with sdpa_kernel(backend):
        for repeat in range(3 + REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            end.record()
            end.synchronize()
            if repeat >= 3:  # warm by now
                seconds.append(start.elapsed_time(end) * 1e-3)
    return operations / statistics.median(seconds) * 1e-12


def bench_rows(program, seqlen, head_dim):
    """What gpu_attention_bench measures for one shape, a dictionary a row."""
    command = [program, "--json", "--dim", str(head_dim), "--seqlen", str(seqlen), "--precision", "qk_int8_pv_fp16"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(program, shape, head_dim, rounds):
    """Figures of one shape by (system, causal), a list over the rounds."""
    batch, heads, seqlen = shape
    figures = {}
    for _ in range(rounds):
        for row in bench_rows(program, seqlen, head_dim):
            if row["sparsity"] == 0:
                figures.setdefault(("kernel", row["causal"]), []).append(row["kernel_tops"])
                figures.setdefault(("whole call", row["causal"]), []).append(row["whole_tops"])
        for name, backend in BACKENDS.items():
            for causal in (False, True):
                rate = torch_tops(backend, batch, heads, seqlen, head_dim, causal)
                figures.setdefault((name, causal), []).append(rate)
    return {key: statistics.median(values) for key, values in figures.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="gpu_attention_bench")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; {arguments.rounds} rounds; effective TOPS")
    columns = ["kernel", "whole call", *BACKENDS]
    print("| shape | " + " | ".join(columns) + " | " + " | ".join(f"whole call / {name}" for name in BACKENDS) + " |")
    print("|---" * (1 + len(columns) + len(BACKENDS)) + "|")
    for head_dim in HEAD_DIMS:
        for shape in SHAPES:
            figures = compare(arguments.program, shape, head_dim, arguments.rounds)
            for causal in (False, True):
                name = f"D{head_dim} B{shape[0]} S{shape[2]}{' causal' if causal else ''}"
                rates = [figures[(column, causal)] for column in columns]
                ratios = [figures[("whole call", causal)] / figures[(backend, causal)] for backend in BACKENDS]
                cells = [f"{rate:.0f}" for rate in rates] + [f"{ratio:.2f}" for ratio in ratios]
                print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
