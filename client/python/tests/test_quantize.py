"""`sage1` in numpy has the bits of the golden files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY

from sage_client import Client, InvalidArgumentError, quantize

with np.load(REPOSITORY / "tests" / "golden" / "data" / "sage1.npz") as stored:
    GOLDEN = {name: stored[name] for name in stored.files}
CASES = sorted({name.rpartition("/")[0] for name in GOLDEN})


def same_bits(actual: Any, expected: Any) -> bool:
    return bool(actual.dtype == expected.dtype and actual.tobytes() == expected.tobytes())


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    x, c, k8, k_scale, q8, q_scale, dot = (
        GOLDEN[f"{case}/{name}"] for name in ("x", "c", "k8", "k_scale", "q8", "q_scale", "dot")
    )
    wide = (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x
    x4 = wide.astype(np.float32)[None, None]

    smoothing = quantize.smoothing(x4)
    assert same_bits(smoothing[0, 0], c)
    k = quantize.quantize_k(x4, smoothing)
    assert same_bits(k.values[0, 0], k8)
    assert same_bits(k.scales[0, 0], k_scale)
    q = quantize.quantize_q(x4)
    assert same_bits(q.values[0, 0], q8)
    assert same_bits(q.scales[0, 0], q_scale)
    assert same_bits(quantize.dot_smoothing(x4, smoothing)[0, 0], dot)


def test_heads_and_batch_entries_are_independent(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 130, 16), np.float32)
    c = quantize.smoothing(x)
    whole = quantize.quantize_k(x, c)
    for b in range(2):
        for h in range(3):
            alone = quantize.quantize_k(x[b : b + 1, h : h + 1], c[b : b + 1, h : h + 1])
            assert same_bits(alone.values[0, 0], whole.values[b, h])
            assert same_bits(alone.scales[0, 0], whole.scales[b, h])


@pytest.mark.parametrize(
    ("layout", "dtype", "length", "precision"),
    [
        ("HND", "float16", 130, "qk_int8_pv_fp16"),
        ("NHD", "float32", 130, "qk_int8_pv_fp8"),
        ("HND", "float32", 9000, "qk_int8_pv_fp8"),  # streamed in stripes
        ("NHD", "float16", 9000, "qk_int8_pv_fp16"),
    ],
)
def test_an_upload_in_int8_gives_the_same_answer(
    client: Client, rng: np.random.Generator, layout: str, dtype: str, length: int, precision: str
) -> None:
    def draw(heads: int) -> Any:
        shape = (1, heads, length, 64) if layout == "HND" else (1, length, heads, 64)
        return rng.standard_normal(shape, np.float32).astype(dtype)

    q, k, v = draw(8), draw(4), draw(4)
    mask = rng.random((8, -(-length // 128), -(-length // 64))) < (0.5 if length < 1000 else 0.1)
    for return_lse in (False, True):
        options: Any = {"return_lse": return_lse, "precision": precision}
        plain = client.attend(q, k, v, mask, True, layout, **options)
        quantized = client.attend(q, k, v, mask, True, layout, prequantize=True, **options)
        assert same_bits(quantized.out, plain.out)
        if return_lse:
            assert same_bits(quantized.lse, plain.lse)
        uploaded = [sum(part.bytes_in for part in a.parts) for a in (plain, quantized)]
        assert uploaded[0] - uploaded[1] == q.size + k.size


def test_int8_is_not_for_the_exact_precision(client: Client) -> None:
    q = np.zeros((1, 1, 64, 64), np.float16)
    with pytest.raises(InvalidArgumentError, match="prequantize: got True, allowed False with"):
        client.attend(q, q, q, precision="fp16", prequantize=True)
