#!/usr/bin/env python3
"""Compares the CUDA backend's attention with the public systems on one GPU, in one run.

    tests/bench/compare_torch.py build/gpu/bin/gpu_attention_bench [--seqlens 2048,8192,32768] [--head-dims 128,64]
                                 [--rounds 2] [--out DIR]

Systems take turns, round by round, since clocks drift; figures are medians over the rounds, in effective TOPS
(4 B H S^2 D / time, halved when causal, skipped blocks counted as done): B is 8192 / S, at least 1, H 32, fp16, N(0, 1), random
128x64 block masks with equal blocks a row. Relative L2 is that of 16 rows of the first head against float64, dense.

Needs a CUDA build of PyTorch: FlashAttention-2 and cuDNN through scaled_dot_product_attention, and FlexAttention (128x128 blocks). The
packages sparse_sageattn, spas_sage_attn and sageattention join where they can be imported. With --out, figures.json and,
where matplotlib is installed, TOPS against sequence length by head_dim and sparsity are written there.
"""

import argparse
import importlib
import json
import pathlib
import statistics
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS = 32
SPARSITIES = [0.0, 0.25, 0.5, 0.75, 0.9]
CAUSAL = "causal"  # beside the sparsities, dense
TILE, BLOCK = 128, 64
REPEATS = 10
CHECKED_ROWS = 16


class Inputs:
    """Tensors [B, H, S, D] of one shape, and what the systems need of a mask of one sparsity."""

    def __init__(self, seqlen, head_dim):
        self.batch, self.seqlen, self.head_dim = max(1, 8192 // seqlen), seqlen, head_dim
        shape = (self.batch, HEADS, seqlen, head_dim)
        self.q, self.k, self.v = (torch.randn(shape, device="cuda", dtype=torch.float16) for _ in range(3))

    def operations(self, case):
        dense = 4 * self.batch * HEADS * self.seqlen**2 * self.head_dim
        return dense / 2 if case == CAUSAL else dense

    def listed_blocks(self, sparsity, block):
        """Indices of as many random key blocks in every row of tiles: [B, H, tiles, listed]."""
        tiles, blocks = self.seqlen // TILE, self.seqlen // block
        listed = max(1, round((1 - sparsity) * blocks))
        scores = torch.rand(self.batch, HEADS, tiles, blocks, device="cuda")
        return scores.topk(listed, dim=-1).indices.sort(dim=-1).values

    def block_mask(self, sparsity):
        """int8 [B, H, S / 128, S / 64], 1 where computed."""
        mask = torch.zeros(self.batch, HEADS, self.seqlen // TILE, self.seqlen // BLOCK, device="cuda", dtype=torch.int8)
        return mask.scatter_(-1, self.listed_blocks(sparsity, BLOCK), 1)

    def relative_l2(self, output):
        """Of some rows of the first head, against float64, without mask."""
        rows = torch.tensor([(2 * i + 1) * self.seqlen // (2 * CHECKED_ROWS) for i in range(CHECKED_ROWS)], device="cuda")
        q, k, v = (x[0, 0].double() for x in (self.q, self.k, self.v))
        want = torch.softmax(q[rows] @ k.T * self.head_dim**-0.5, dim=-1) @ v
        got = output[0, 0][rows].double()
        return ((got - want).norm() / want.norm()).item()


# A system is a function of (inputs, case) that returns the call to time, or None where it has no such case.


def sdpa(backend):
    def prepare(inputs, case):
        if case not in (0.0, CAUSAL):
            return None

        def call():
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(
                    inputs.q, inputs.k, inputs.v, is_causal=case == CAUSAL
                )

        return call

    return prepare


def flex_attention():
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    compiled = torch.compile(flex.flex_attention, dynamic=False)
    torch._dynamo.config.recompile_limit = 100  # a compilation for every shape and kind of mask

    def causal(b, h, q, k):
        return q >= k

    def prepare(inputs, case):
        if case == CAUSAL:
            mask = flex.create_block_mask(causal, None, None, inputs.seqlen, inputs.seqlen, device="cuda")
        else:
            # Whole blocks alone: no list of partial ones.
            whole = inputs.listed_blocks(case, TILE).int()
            order = torch.zeros(*whole.shape[:3], inputs.seqlen // TILE, device="cuda", dtype=torch.int32)
            order[..., : whole.shape[-1]] = whole
            count = torch.full(whole.shape[:3], whole.shape[-1], device="cuda", dtype=torch.int32)
            mask = flex.BlockMask.from_kv_blocks(torch.zeros_like(count), torch.zeros_like(order), count, order, BLOCK_SIZE=TILE)
        return lambda: compiled(inputs.q, inputs.k, inputs.v, block_mask=mask)

    return prepare


def sparse_sageattn(whole):
    core = importlib.import_module("sparse_sageattn.core")

    def prepare(inputs, case):
        mask = inputs.block_mask(0.0 if case == CAUSAL else case)
        if whole:
            return lambda: core.sparse_sageattn(inputs.q, inputs.k, inputs.v, mask_id=mask, is_causal=case == CAUSAL)
        mean = inputs.k.mean(dim=2, keepdim=True)
        q8, q_scale, k8, k_scale = core.per_block_int8(inputs.q, inputs.k, km=mean, tensor_layout="HND")
        return lambda: core.sparse_sageattn_fwd(
            q8, k8, mask, inputs.v, q_scale, k_scale, is_causal=case == CAUSAL, tensor_layout="HND", output_dtype=torch.float16
        )

    return prepare


def spas_sage_attn():
    package = importlib.import_module("spas_sage_attn")

    def prepare(inputs, case):
        if case == CAUSAL:
            return None
        mask = inputs.block_mask(case)
        return lambda: package.block_sparse_sage2_attn_cuda(inputs.q, inputs.k, inputs.v, mask_id=mask)

    return prepare


def sageattention():
    package = importlib.import_module("sageattention")

    def prepare(inputs, case):
        if case not in (0.0, CAUSAL):
            return None
        return lambda: package.sageattn(inputs.q, inputs.k, inputs.v, is_causal=case == CAUSAL)

    return prepare


SYSTEMS = {
    "FlashAttention-2": lambda: sdpa(SDPBackend.FLASH_ATTENTION),
    "cuDNN": lambda: sdpa(SDPBackend.CUDNN_ATTENTION),
    "FlexAttention": flex_attention,
    "sparse_sageattn kernel": lambda: sparse_sageattn(whole=False),
    "sparse_sageattn call": lambda: sparse_sageattn(whole=True),
    "spas_sage_attn call": spas_sage_attn,
    "sageattention call": sageattention,
}
OWN = {"sage-serve kernel": "kernel_tops", "sage-serve call": "whole_tops"}


def available_systems():
    systems = {}
    for name, make in SYSTEMS.items():
        try:
            systems[name] = make()
        except ImportError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
    return systems


def seconds(call):
    """Median time of REPEATS calls, warm."""
    times = []
    for repeat in range(3 + REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def own_rows(program, seqlen, head_dim):
    """What gpu_attention_bench measures for one shape, a dictionary a row."""
    command = [program, "--json", "--dim", str(head_dim), "--seqlen", str(seqlen), "--precision", "qk_int8_pv_fp16"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(program, systems, seqlen, head_dim, rounds):
    """TOPS by (system, case), and relative L2 by system, of one shape."""
    tops, errors = {}, {}
    for _ in range(rounds):
        for row in own_rows(program, seqlen, head_dim):
            case = CAUSAL if row["causal"] else row["sparsity"]
            for name, field in OWN.items():
                tops.setdefault((name, case), []).append(row[field])
                if case == 0.0:
                    errors[name] = row["relative_l2"]
        inputs = Inputs(seqlen, head_dim)
        for name, prepare in systems.items():
            for case in [*SPARSITIES, CAUSAL]:
                call = prepare(inputs, case)
                if call is None:
                    continue
                if case == 0.0:
                    errors[name] = inputs.relative_l2(call())
                tops.setdefault((name, case), []).append(inputs.operations(case) / seconds(call) * 1e-12)
        torch.cuda.empty_cache()
    return {key: statistics.median(values) for key, values in tops.items()}, errors


def print_table(seqlen, head_dim, tops, errors):
    cases = [*SPARSITIES, CAUSAL]
    titles = [f"{100 * case:.0f}%" if case != CAUSAL else case for case in cases]
    print(f"\n| D{head_dim} B{max(1, 8192 // seqlen)} S{seqlen} | " + " | ".join(titles) + " | relative L2 |")
    print("|---" * (len(cases) + 2) + "|")
    for name in [*OWN, *SYSTEMS]:
        if name in errors:
            cells = [f"{tops[(name, case)]:.0f}" if (name, case) in tops else "" for case in cases]
            print(f"| {name} | " + " | ".join(cells) + f" | {errors[name]:.5f} |")
    for ours, theirs in [("sage-serve kernel", "sparse_sageattn kernel"), ("sage-serve call", "sparse_sageattn call")]:
        if theirs in errors:
            cells = [f"{tops[(ours, case)] / tops[(theirs, case)]:.2f}" for case in cases]
            print(f"| {ours} / {theirs} | " + " | ".join(cells) + " | |")
    sys.stdout.flush()


def draw(figures, device, out):
    """TOPS against sequence length, a panel for each sparsity, a file for each head_dim."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        print(f"no pictures: {error}", file=sys.stderr)
        return
    for head_dim in sorted({figure["head_dim"] for figure in figures}):
        chosen = [figure for figure in figures if figure["head_dim"] == head_dim]
        names = [name for name in [*OWN, *SYSTEMS] if any(f["system"] == name and f["case"] == 0.5 for f in chosen)]
        canvas, panels = pyplot.subplots(1, 3, figsize=(15, 5), layout="constrained")
        for panel, sparsity in zip(panels, [0.25, 0.5, 0.75]):
            seqlens = sorted({figure["seqlen"] for figure in chosen})
            for index, name in enumerate(names):
                rates = [f["tops"] for s in seqlens for f in chosen if (f["system"], f["case"], f["seqlen"]) == (name, sparsity, s)]
                offset = (index - (len(names) - 1) / 2) * 0.8 / len(names)
                bars = panel.bar([i + offset for i in range(len(seqlens))], rates, 0.8 / len(names), label=name)
                panel.bar_label(bars, fmt="%.0f", fontsize=6, rotation=90, padding=2)
            panel.set_xticks(range(len(seqlens)), [f"{s // 1024}K" for s in seqlens])
            panel.set_title(f"{100 * sparsity:.0f}% of the blocks skipped")
            panel.set_xlabel("sequence length")
            panel.margins(y=0.15)
        panels[0].set_ylabel("effective TOPS")
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
        canvas.suptitle(f"head_dim {head_dim}, {HEADS} heads, fp16, {device}")
        canvas.savefig(out / f"tops_d{head_dim}.png", dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    integers = lambda text: [int(item) for item in text.split(",")]
    parser.add_argument("program", help="gpu_attention_bench")
    parser.add_argument("--seqlens", type=integers, default=[2048, 8192, 32768])
    parser.add_argument("--head-dims", type=integers, default=[128, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    systems = available_systems()
    device = torch.cuda.get_device_name()
    print(f"{device}, PyTorch {torch.__version__}; {arguments.rounds} rounds; effective TOPS")
    figures = []
    for head_dim in arguments.head_dims:
        for seqlen in arguments.seqlens:
            tops, errors = compare(arguments.program, systems, seqlen, head_dim, arguments.rounds)
            print_table(seqlen, head_dim, tops, errors)
            for (name, case), rate in tops.items():
                figures.append({"system": name, "case": case, "seqlen": seqlen, "head_dim": head_dim, "tops": rate})
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "figures.json").write_text(json.dumps({"device": device, "figures": figures}, indent=1))
        draw(figures, device, arguments.out)


if __name__ == "__main__":
    main()
