#!/usr/bin/env python3
"""Writes the golden files of this folder, or with --check compares them with a fresh computation.

An implementation of quantisation spec `sage1` and of block-sparse attention that is independent of
the C++ one: written from the specification, in numpy, one fp32 operation at a time. Needs numpy
only; without it, --check exits with 77, which ctest shows as skipped.

data/sage1.npz   per case NAME the arrays
    NAME/x          [rows, head_dim], float16 or float32; uint16 holds the bits of bfloat16
    NAME/c          [head_dim] float32, smoothing vector of x taken as K
    NAME/k8         [rows, head_dim] int8, NAME/k_scale [ceil(rows/64)] float32: x as K
    NAME/q8         [rows, head_dim] int8, NAME/q_scale [rows] float32: x as Q
    NAME/dot        [rows] float32, x . c in the order of QueryDotSmoothing
data/example_*.npy   the 512x512 example with its 4x8 mask: q, k, v [1, 2, 512, 64] float16, mask
    [1, 1, 4, 8] uint8, and from float64 arithmetic out [1, 2, 512, 64] and lse [1, 2, 512], as float32.
"""

import argparse
import io
import pathlib
import sys
import zipfile

try:
    import numpy as np
except ImportError:
    print("numpy is missing: golden files not checked", file=sys.stderr)
    sys.exit(77)

DATA = pathlib.Path(__file__).resolve().parent / "data"
BLOCK = 64
F32 = np.float32


# --- bfloat16, held as the upper half of a float32 -------------------------------------------------


def to_bfloat16(values):
    """float32 -> bits, round to nearest even. NaN does not occur here as input."""
    bits = np.asarray(values, F32).view(np.uint32).astype(np.uint64)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16)


def widen(x):
    """Any stored tensor as float32, exactly."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(F32)
    return x.astype(F32)


# --- sage1 ---------------------------------------------------------------------------------------


def smoothing(k):
    """c of one head: block sums in order of the tokens, then their sum in order of the blocks."""
    total = np.zeros(k.shape[1], F32)
    for begin in range(0, len(k), BLOCK):
        block_sum = np.zeros(k.shape[1], F32)
        for token in k[begin : begin + BLOCK]:
            block_sum = np.add(block_sum, np.where(np.isfinite(token), token, F32(0)), dtype=F32)
        total = np.add(total, block_sum, dtype=F32)
    inv = np.divide(F32(1), F32(len(k)), dtype=F32)
    return np.multiply(total, inv, dtype=F32)


def quantize_group(x, c):
    """int8 values and the scale of one group of tokens."""
    centred = np.subtract(x, c, dtype=F32)
    if not np.all(np.isfinite(centred)):
        return np.zeros(x.shape, np.int8), F32(np.nan)
    m = np.max(np.abs(centred))
    if m < F32(2.0**-100):
        return np.zeros(x.shape, np.int8), F32(0)
    r = np.divide(F32(127), m, dtype=F32)
    rounded = np.rint(np.multiply(centred, r, dtype=F32))
    return np.clip(rounded, -127, 127).astype(np.int8), np.divide(m, F32(127), dtype=F32)


def quantize(x, c, group):
    """x8 of all tokens, and one scale for every `group` tokens."""
    parts = [quantize_group(x[i : i + group], c) for i in range(0, len(x), group)]
    return np.concatenate([x8 for x8, _ in parts]), np.array([scale for _, scale in parts], F32)


def dot_smoothing(q, c):
    """q . c of every token: sums of eight channels in order, added in pairs, neighbours first."""
    sums = []
    for first in range(0, q.shape[1], 8):
        total = np.zeros(len(q), F32)
        for d in range(first, first + 8):
            total = np.add(total, np.multiply(q[:, d], c[d], dtype=F32), dtype=F32)
        sums.append(total)
    while len(sums) > 1:
        sums += [np.zeros(len(q), F32)] * (len(sums) % 2)
        sums = [np.add(a, b, dtype=F32) for a, b in zip(sums[::2], sums[1::2])]
    return sums[0]


# --- inputs --------------------------------------------------------------------------------------


def mirrored(half):
    """Tokens x, then -x, so that every channel's sums, and with them c, are exactly 0."""
    return np.concatenate([half, -half])


def sage1_inputs():
    """Name -> stored tensor. RandomState is frozen: the same numbers from every numpy."""
    random = np.random.RandomState(20250101)

    def normal(rows, head_dim):
        return random.standard_normal((rows, head_dim)).astype(F32)

    cases = {}
    for head_dim in (8, 64, 128):
        for rows in (1, 63, 64, 65, 200):
            cases[f"normal_fp16_{rows}x{head_dim}"] = normal(rows, head_dim).astype(np.float16)
            if head_dim == 64:
                cases[f"normal_bf16_{rows}x{head_dim}"] = to_bfloat16(normal(rows, head_dim))
    cases["normal_fp32_65x8"] = normal(65, 8)

    offset = normal(200, 64) + 8 * normal(1, 64)
    cases["channel_offset_fp16"] = offset.astype(np.float16)
    cases["channel_offset_bf16"] = to_bfloat16(offset)

    cases["all_zero_fp16"] = np.zeros((65, 8), np.float16)
    cases["constant_fp16"] = np.full((100, 8), 1.2998046875, np.float16)
    zero_block = mirrored(normal(32, 64))
    cases["zero_block_fp16"] = np.concatenate(
        [zero_block, np.zeros((64, 64)), zero_block]
    ).astype(np.float16)

    # Around the threshold 2^-100, each block its own magnitude; c is 0.
    tiny = np.concatenate(
        [mirrored(np.full((32, 8), 2.0**e, F32)) for e in (-99, -100, -101, -126, -133)]
    )
    cases["tiny_bf16"] = to_bfloat16(tiny)
    below = np.nextafter(F32(2.0**-100), F32(0))
    cases["tiny_fp32"] = np.concatenate(
        [mirrored(np.full((32, 8), m, F32)) for m in (below, 2.0**-100, 2.0**-149)]
    )
    cases["subnormal_fp16"] = (normal(130, 8) * F32(2.0**-22)).astype(np.float16)

    # Scale 1 and values halfway between integers: ties go to even.
    ties = np.arange(-126.5, 127, 1, dtype=F32)
    ties = np.concatenate([ties, np.full(256 - len(ties), 127, F32)]).reshape(32, 8)
    cases["ties_fp16"] = mirrored(ties).astype(np.float16)

    spoiled = normal(260, 8).astype(np.float16)
    spoiled[70, 3], spoiled[130, 0], spoiled[131, 0], spoiled[259, 7] = (
        np.nan,
        np.inf,
        -np.inf,
        np.inf,
    )
    cases["non_finite_fp16"] = spoiled
    bits = to_bfloat16(normal(130, 8))
    bits[5, 5], bits[6, 6], bits[128, 0] = 0x7FC0, 0x7F80, 0xFF80
    cases["non_finite_bf16"] = bits

    # Finite values whose sum is not: c of the first channel is infinite.
    huge = normal(66, 8)
    huge[:, 0] = 1e38
    cases["overflowing_sum_bf16"] = to_bfloat16(huge)
    return cases


def make_sage1():
    arrays = {}
    for name, x in sage1_inputs().items():
        wide = widen(x)
        zero = np.zeros(wide.shape[1], F32)
        c = smoothing(wide)
        k8, k_scale = quantize(wide, c, BLOCK)
        q8, q_scale = quantize(wide, zero, 1)
        arrays |= {
            f"{name}/x": x,
            f"{name}/c": c,
            f"{name}/k8": k8,
            f"{name}/k_scale": k_scale,
            f"{name}/q8": q8,
            f"{name}/q_scale": q_scale,
            f"{name}/dot": dot_smoothing(wide, c),
        }
    return arrays


# --- the 512x512 example -------------------------------------------------------------------------

EXAMPLE_MASK = [
    [0, 1, 0, 1, 1, 1, 0, 1],
    [0, 1, 1, 1, 0, 0, 1, 0],
    [1, 0, 1, 1, 1, 0, 0, 1],
    [0, 0, 1, 0, 1, 1, 0, 0],
]


def make_example():
    random = np.random.RandomState(512)
    q, k, v = (random.standard_normal((1, 2, 512, 64)).astype(np.float16) for _ in range(3))
    mask = np.array([[EXAMPLE_MASK]], np.uint8)
    visible = np.repeat(np.repeat(mask, 128, axis=2), 64, axis=3) != 0
    scores = q.astype(np.float64) @ k.astype(np.float64).transpose(0, 1, 3, 2) / np.sqrt(64.0)
    scores = np.where(visible, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    out = weights @ v.astype(np.float64) / total
    lse = (top + np.log(total))[..., 0]
    return {
        "q": q,
        "k": k,
        "v": v,
        "mask": mask,
        "out": out.astype(F32),
        "lse": lse.astype(F32),
    }


# --- files ---------------------------------------------------------------------------------------


def write(sage1, example):
    DATA.mkdir(exist_ok=True)
    # Stored, not deflated, and with a fixed date: a plain reader is enough, and equal contents
    # make equal files.
    with zipfile.ZipFile(DATA / "sage1.npz", "w", zipfile.ZIP_STORED) as archive:
        for name, array in sage1.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())
    for name, array in example.items():
        np.save(DATA / f"example_{name}.npy", array)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check(sage1, example):
    """Names of arrays that differ from the committed ones."""
    wrong = []
    with np.load(DATA / "sage1.npz") as stored:
        wrong += sorted(set(stored.files) ^ set(sage1))
        wrong += [name for name in stored.files if not same_bits(stored[name], sage1[name])]
    for name, array in example.items():
        stored = np.load(DATA / f"example_{name}.npy")
        # Matrix products and exp may differ in the last bits between builds of numpy; after
        # rounding to fp32 that is at most one step of 1.2e-7.
        computed = name in ("out", "lse")
        if computed and not np.allclose(stored, array, rtol=2.5e-7, atol=1e-9):
            wrong.append(f"example_{name}")
        if not computed and not same_bits(stored, array):
            wrong.append(f"example_{name}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    with np.errstate(all="ignore"):
        sage1, example = make_sage1(), make_example()
    if not arguments.check:
        write(sage1, example)
        return 0
    wrong = check(sage1, example)
    for name in wrong:
        print(f"{name}: differs from the committed file", file=sys.stderr)
    print(f"{len(sage1) + len(example)} arrays checked, {len(wrong)} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
