#!/usr/bin/env python3
"""Serves attention from a GPU to torch tensors, and holds the drop-in's answers against float64.

    python3 tests/gpu_torch.py SERVER [--device cuda|cpu] [--backend cuda|cpu]

SERVER is the sage-server program. Needs torch, numpy, grpcio, protobuf and the package, as its
wheel or on PYTHONPATH (see client/python/README.md). Every answer to torch tensors is also
compared, bit for bit, with those to the same numbers as numpy arrays and as resident tensors. Ends
with one line: N passed, N failed. Exit status 1 if anything failed, 77 where there is no GPU for
the tensors.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sage_client import Client, sparse_sageattn

# Relative L2 for N(0, 1) inputs, as of `sagectl verify`.
LIMITS = {"qk_int8_pv_fp16": 0.03, "qk_int8_pv_fp8": 0.06, "fp16": 0.002}
BF16_LIMIT = 0.01  # of precision fp16: the output's own rounding

# batch, heads of q, heads of k and v, seqlen of q, of k, head_dim, share of blocks
SHAPES = [
    (1, 2, 2, 1, 1, 64, 1.0),
    (1, 2, 2, 127, 65, 64, 0.5),
    (2, 4, 2, 512, 512, 64, 0.5),
    (1, 8, 8, 1024, 1024, 128, 0.3),
    (1, 4, 1, 300, 2000, 72, 0.5),
    (1, 8, 8, 8192, 8192, 128, 0.1),  # streamed, and striped
]
# A longer head is held against float64 at its first and last rows and so many between, drawn anew.
SAMPLED_ROWS = 256


def start(program: str, backend: str, folder: str) -> tuple[subprocess.Popen[bytes], str]:
    """A server on a free port, ready."""
    port_file = Path(folder) / "port"
    server = subprocess.Popen(
        [
            *(program, "--backend", backend, "--log-level", "warn"),
            *("--listen", "127.0.0.1:0", "--port-file", port_file),
        ]
    )
    while not (port_file.exists() and port_file.read_text().strip()):
        if server.poll() is not None:
            sys.exit(f"{program} did not start")
        time.sleep(0.1)
    return server, f"127.0.0.1:{port_file.read_text().strip()}"


def sample(length: int) -> Any:
    """Rows to check: all, or both ends and some between."""
    if length <= SAMPLED_ROWS:
        return torch.arange(length)
    ends = torch.tensor([0, 1, length - 2, length - 1])
    return torch.cat([ends, torch.randint(2, length - 2, (SAMPLED_ROWS,))])


def reference(q: Any, k: Any, v: Any, mask: Any, is_causal: bool, rows: Any) -> Any:
    """Some rows in float64, of tensors in HND, a head at a time."""
    heads, last_key = q.shape[1], k.shape[2] - q.shape[2]
    key = torch.arange(k.shape[2], device=q.device)
    group = heads // k.shape[1]
    out = torch.zeros_like(q[:, :, rows], dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(heads):
            visible = mask[h].bool()[rows // 128][:, key // 64]
            if is_causal:
                visible = visible & (key <= rows[:, None] + last_key)
            scores = q[b, h, rows].double() @ k[b, h // group].double().T * q.shape[3] ** -0.5
            weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0)
            out[b, h] = weights @ v[b, h // group].double()
    return out


def relative_l2(actual: Any, wanted: Any) -> float:
    norm = float(wanted.norm())
    error = float((actual.double() - wanted).norm())
    return error if norm == 0 else error / norm


def to_numpy(x: Any) -> Any:
    """The same numbers in numpy; bfloat16, which it lacks, as float32."""
    return (x.float() if x.dtype is torch.bfloat16 else x).cpu().numpy()


def check(
    shape: tuple[Any, ...], dtype: Any, is_causal: bool, layout: str, precision: str, device: str
) -> bool:
    """One call each way; prints a line."""
    batch, heads, kv_heads, rows, keys, dim, density = shape
    q = torch.randn(batch, heads, rows, dim, device=device).to(dtype)
    k = torch.randn(batch, kv_heads, keys, dim, device=device).to(dtype)
    v = torch.randn(batch, kv_heads, keys, dim, device=device).to(dtype)
    mask = torch.rand(heads, -(-rows // 128), -(-keys // 64), device=device) < density
    operands = [x if layout == "HND" else x.transpose(1, 2) for x in (q, k, v)]
    client = Client(timeout=300)
    begin = time.perf_counter()
    if precision == "qk_int8_pv_fp16":
        out = sparse_sageattn(*operands, mask, is_causal, layout)
    else:
        out = client.attend(*operands, mask, is_causal, layout, precision=precision).out
    if device == "cuda":
        torch.cuda.synchronize()
    milliseconds = (time.perf_counter() - begin) * 1e3
    bf16 = dtype is torch.bfloat16
    arrays = client.attend(
        *(to_numpy(x) for x in operands),
        mask.cpu().numpy(),
        is_causal,
        layout,
        precision=precision,
        dtype="bfloat16" if bf16 else None,
        output_dtype="float32" if bf16 else None,
    ).out
    same = torch.equal(torch.from_numpy(arrays).to(device).to(dtype), out)
    # And with nothing on its way but the trailer.
    with client.put(operands[1], operands[2], layout, precisions=[precision]) as kept:
        kept_out = kept.put_output(operands[0].shape, dtype=str(dtype)[6:])
        queries, blocks = kept.put_q(operands[0]), kept.put_mask(mask, operands[0].shape)
        kept.attend(queries, blocks, is_causal, out=kept_out, precision=precision)
        resident = kept_out.get()
        same = same and resident.device == q.device and torch.equal(resident, out)
        queries.release(), blocks.release(), kept_out.release()
    hnd = out if layout == "HND" else out.transpose(1, 2)
    sampled = sample(rows).to(device)
    error = relative_l2(hnd[:, :, sampled], reference(q, k, v, mask, is_causal, sampled))
    limit = LIMITS[precision]
    if bf16:
        limit = max(limit, BF16_LIMIT)
    as_q = out.device == q.device and out.dtype == q.dtype and out.shape == operands[0].shape
    passed = error <= limit and same and as_q
    complaints = ("" if same else "differs from numpy or resident ") + ("" if as_q else "not as q ")
    print(
        f"{'pass' if passed else 'FAIL'}  {shape!s:38} {str(dtype)[6:]:9} {layout} "
        f"{'causal' if is_causal else '      '} {precision:16} L2 {error:.5f} of {limit} "
        f"{complaints}{milliseconds:.1f} ms",
        flush=True,
    )
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", help="the sage-server program")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="of the tensors")
    parser.add_argument("--backend", default="cuda", choices=["cuda", "cpu"])
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_torch: torch finds no GPU on this machine, skipped")
        return 77
    seed = int.from_bytes(os.urandom(4), "little")
    torch.manual_seed(seed)
    print(f"torch {torch.__version__}, seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        server, os.environ["SAGE_SERVER"] = start(options.server, options.backend, folder)
    try:
        (served,) = Client(timeout=300).info()
        print(served)
        forms = [("HND", "qk_int8_pv_fp16"), ("NHD", "fp16"), ("HND", "qk_int8_pv_fp8")]
        results = [
            check(shape, dtype, is_causal, layout, precision, options.device)
            for shape in SHAPES
            for dtype in (torch.float16, torch.bfloat16, torch.float32)
            for is_causal in (False, True)
            for layout, precision in forms
            if precision in served.precisions
        ]
    finally:
        server.terminate()
        server.wait(60)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
