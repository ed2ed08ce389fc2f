"""The contract, served, against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from oracle import LIMITS, assert_lse_close, attend, relative_l2

import sage_client
from sage_client import Client

ml_dtypes = pytest.importorskip("ml_dtypes")

DATA = REPOSITORY / "tests" / "golden" / "data"
LENGTHS = [1, 63, 65, 127, 129, 1000]
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
PRECISIONS = ["qk_int8_pv_fp16", "qk_int8_pv_fp8", "fp16"]


def draw(
    rng: np.random.Generator,
    heads: tuple[int, int] = (4, 2),
    lengths: tuple[int, int] = (129, 129),
    layout: str = "HND",
    dtype: str = "float16",
    batch: int = 2,
    head_dim: int = 64,
) -> Any:
    """q, k and v."""

    def tensor(h: int, s: int) -> Any:
        shape = (batch, h, s, head_dim) if layout == "HND" else (batch, s, h, head_dim)
        return rng.standard_normal(shape, np.float32).astype(DTYPES[dtype])

    return tensor(heads[0], lengths[0]), tensor(heads[1], lengths[1]), tensor(heads[1], lengths[1])


def draw_mask(rng: np.random.Generator, *shape: int, density: float = 0.5) -> Any:
    return (rng.random(shape) < density).astype(np.int8)


def blocks(lengths: tuple[int, int]) -> tuple[int, int]:
    return -(-lengths[0] // 128), -(-lengths[1] // 64)


# Layout, dtype, causal, precision: half of all combinations, with every one of any three.
OPTIONS = [
    (layout, dtype, is_causal, precision)
    for i, layout in enumerate(["HND", "NHD"])
    for j, dtype in enumerate(["float16", "bfloat16"])
    for k, is_causal in enumerate([False, True])
    for m, precision in enumerate(["qk_int8_pv_fp16", "fp16"])
    if (i + j + k + m) % 2 == 0
]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("layout", "dtype", "is_causal", "precision"), OPTIONS)
def test_every_length_layout_and_dtype(
    client: Client,
    rng: np.random.Generator,
    length: int,
    layout: str,
    dtype: str,
    is_causal: bool,
    precision: str,
) -> None:
    q, k, v = draw(rng, lengths=(length, length), layout=layout, dtype=dtype)
    mask = draw_mask(rng, 2, 4, *blocks((length, length)))
    answer = client.attend(q, k, v, mask, is_causal, layout, precision=precision, return_lse=True)
    out, lse = attend(q, k, v, mask, is_causal, layout)
    assert answer.out.dtype == q.dtype
    assert answer.out.shape == q.shape
    assert relative_l2(answer.out, out) <= LIMITS[precision, dtype]
    assert_lse_close(answer.lse, lse, precision)


@pytest.mark.parametrize("lengths", [(1, 1000), (65, 129), (129, 65), (1000, 1), (63, 127)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_causal_is_aligned_to_the_last_row_and_key(
    client: Client, rng: np.random.Generator, lengths: tuple[int, int], precision: str
) -> None:
    q, k, v = draw(rng, lengths=lengths)
    answer = client.attend(q, k, v, None, True, precision=precision, return_lse=True)
    out, lse = attend(q, k, v, None, True)
    assert relative_l2(answer.out, out) <= LIMITS[precision, "float16"]
    assert_lse_close(answer.lse, lse, precision)
    blind = lengths[0] - lengths[1]  # rows that see no key
    if blind > 0:
        assert (answer.out[:, :, :blind] == 0).all()


@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (8, 1), (5, 5)])
def test_heads_are_grouped(
    client: Client, rng: np.random.Generator, heads: tuple[int, int]
) -> None:
    q, k, v = draw(rng, heads=heads, lengths=(127, 129))
    mask = draw_mask(rng, 2, heads[0], 1, 3)
    answer = client.attend(q, k, v, mask, precision="fp16")
    assert relative_l2(answer.out, attend(q, k, v, mask)[0]) <= LIMITS["fp16", "float16"]


@pytest.mark.parametrize("head_dim", [8, 40, 64, 96, 128])
def test_every_head_dim(client: Client, rng: np.random.Generator, head_dim: int) -> None:
    q, k, v = draw(rng, lengths=(129, 127), head_dim=head_dim)
    answer = client.attend(q, k, v, precision="fp16")
    assert relative_l2(answer.out, attend(q, k, v)[0]) <= LIMITS["fp16", "float16"]


@pytest.mark.parametrize("leading", [(), (4,), (1,), (1, 1), (2, 1), (1, 4), (2, 4)])
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int32, np.int64])
def test_masks_broadcast(
    client: Client, rng: np.random.Generator, leading: tuple[int, ...], dtype: Any
) -> None:
    q, k, v = draw(rng, lengths=(300, 500))
    mask = draw_mask(rng, *leading, 3, 8).astype(dtype)
    answer = client.attend(q, k, v, mask, precision="fp16")
    assert relative_l2(answer.out, attend(q, k, v, mask)[0]) <= LIMITS["fp16", "float16"]


def test_a_mask_may_be_nested_lists(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, lengths=(129, 65))
    mask = [[1, 0], [0, 1]]
    out = client.sparse_sageattn(q, k, v, mask)
    assert relative_l2(out, attend(q, k, v, mask)[0]) <= LIMITS["qk_int8_pv_fp16", "float16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_without_keys_give_zero_and_minus_infinity(
    client: Client, rng: np.random.Generator, precision: str
) -> None:
    q, k, v = draw(rng, lengths=(300, 300))
    mask = draw_mask(rng, 4, 3, 5)
    mask[1] = 0
    mask[:, 2] = 0
    answer = client.attend(q, k, v, mask, precision=precision, return_lse=True)
    for part in np.s_[:, 1], np.s_[:, :, 256:]:
        assert (answer.out[part] == 0).all()
        assert (answer.lse[part] == -np.inf).all()
    out, lse = attend(q, k, v, mask)
    assert relative_l2(answer.out, out) <= LIMITS[precision, "float16"]
    assert_lse_close(answer.lse, lse, precision)


@pytest.mark.parametrize("is_causal", [False, True])
def test_lengths_per_batch_entry(client: Client, rng: np.random.Generator, is_causal: bool) -> None:
    q, k, v = draw(rng, batch=4, lengths=(200, 300))
    lengths_q, lengths_k = [200, 0, 130, 1], [0, 300, 65, 299]
    answer = client.attend(
        q,
        k,
        v,
        is_causal=is_causal,
        precision="fp16",
        return_lse=True,
        seqlens_q=lengths_q,
        seqlens_k=lengths_k,
    )
    out, lse = attend(q, k, v, is_causal=is_causal, seqlens_q=lengths_q, seqlens_k=lengths_k)
    assert relative_l2(answer.out, out) <= LIMITS["fp16", "float16"]
    assert_lse_close(answer.lse, lse, "fp16")


def test_softmax_scale(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng)
    answer = client.attend(q, k, v, softmax_scale=0.03, precision="fp16")
    assert relative_l2(answer.out, attend(q, k, v, scale=0.03)[0]) <= LIMITS["fp16", "float16"]


PATTERNS = [
    (sage_client.SlidingWindow(1, 2), lambda s, e, n: s - 1 <= n <= e + 2),
    (sage_client.SlidingWindow(0, 0), lambda s, e, n: s <= n <= e),
    (sage_client.SinkWindow(1, 2), lambda s, e, n: n < 1 or s - 2 <= n <= e),
    (sage_client.Strided(3, 1, 2), lambda s, e, n: n % 3 == 1 or s - 2 < n <= e),
    (sage_client.Strided(2), lambda s, e, n: n % 2 == 0),
    (sage_client.Band(-2, 0), lambda s, e, n: -2 <= n - s <= 0),
]


@pytest.mark.parametrize(("pattern", "listed"), PATTERNS)
@pytest.mark.parametrize("lengths", [(700, 700), (300, 650), (650, 300)])
def test_patterns(
    client: Client, rng: np.random.Generator, pattern: Any, listed: Any, lengths: tuple[int, int]
) -> None:
    q, k, v = draw(rng, lengths=lengths)
    tiles, columns = blocks(lengths)
    shift = lengths[1] - lengths[0]
    mask = [
        [listed((128 * m + shift) // 64, (128 * m + 127 + shift) // 64, n) for n in range(columns)]
        for m in range(tiles)
    ]
    answer = client.attend(q, k, v, pattern, precision="fp16")
    assert relative_l2(answer.out, attend(q, k, v, mask)[0]) <= LIMITS["fp16", "float16"]


def test_documents(client: Client, rng: np.random.Generator) -> None:
    lengths = [100, 30, 200, 1, 169]
    q, k, v = draw(rng, lengths=(500, 500))
    document = np.repeat(np.arange(5), lengths)
    shared = document[:, None] == document[None]
    padded = np.pad(shared, ((0, 512 - 500), (0, 512 - 500)))
    mask = padded.reshape(4, 128, 8, 64).any(axis=(1, 3))
    answer = client.attend(q, k, v, sage_client.Documents(lengths), precision="fp16")
    assert relative_l2(answer.out, attend(q, k, v, mask)[0]) <= LIMITS["fp16", "float16"]


@pytest.mark.parametrize(
    ("options", "wire_dtype", "output_dtype"),
    [
        ({}, np.float16, np.float32),
        ({"dtype": "bfloat16"}, ml_dtypes.bfloat16, np.float32),
        ({"output_dtype": "float16"}, np.float16, np.float16),
        ({"output_dtype": "bfloat16"}, np.float16, ml_dtypes.bfloat16),
    ],
)
def test_float32_is_rounded_on_its_way(
    client: Client, rng: np.random.Generator, options: Any, wire_dtype: Any, output_dtype: Any
) -> None:
    q, k, v = (x.astype(np.float32) + 1e-5 for x in draw(rng))
    answer = client.attend(q, k, v, precision="fp16", **options)
    rounded = [x.astype(wire_dtype) for x in (q, k, v)]
    same = client.attend(*rounded, precision="fp16", output_dtype=np.dtype(output_dtype).name)
    assert answer.out.dtype == output_dtype
    assert answer.out.tobytes() == same.out.tobytes()


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("connections", [1, 3])
def test_large_requests_are_streamed_in_stripes(
    client: Client, rng: np.random.Generator, layout: str, connections: int
) -> None:
    q, k, v = draw(rng, heads=(8, 4), lengths=(4000, 8700), layout=layout, batch=2)
    mask = draw_mask(rng, 2, 8, *blocks((4000, 8700)), density=0.02)
    striped = Client(client.servers, connections=connections)
    answer = striped.attend(q, k, v, mask, True, layout, return_lse=True)
    assert len(answer.parts) == connections
    # Bits do not depend on how a request is cut: each head alone gives the same.
    axis = 1 if layout == "HND" else 2
    for head in (0, 7):
        q1, k1, v1 = (np.take(x, [h], axis) for x, h in ((q, head), (k, head // 2), (v, head // 2)))
        alone = client.attend(q1, k1, v1, mask[:, [head]], True, layout, return_lse=True)
        assert alone.out.tobytes() == np.take(answer.out, [head], axis).tobytes()
        assert (alone.lse == answer.lse[:, [head]]).all()
    head = int(rng.integers(8))
    q1, k1, v1 = (np.take(x, [h], axis) for x, h in ((q, head), (k, head // 2), (v, head // 2)))
    out, lse = attend(q1[:1], k1[:1], v1[:1], mask[:1, [head]], True, layout)
    limit = LIMITS["qk_int8_pv_fp16", "float16"]
    assert relative_l2(np.take(answer.out[:1], [head], axis), out) <= limit
    assert_lse_close(answer.lse[:1, [head]], lse, "qk_int8_pv_fp16")


def test_strided_views_are_taken_as_they_are(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, lengths=(400, 400), layout="NHD")
    views = [x.swapaxes(1, 2)[:, :, ::-2] for x in (q, k, v)]
    copies = [np.ascontiguousarray(x) for x in views]
    assert client.attend(*views).out.tobytes() == client.attend(*copies).out.tobytes()


def test_the_published_example(client: Client) -> None:
    data = {name: np.load(f"{DATA}/example_{name}.npy") for name in ("q", "k", "v", "mask", "out")}
    out = client.sparse_sageattn(data["q"], data["k"], data["v"], data["mask"][0, 0])
    assert relative_l2(out, data["out"].astype(np.float64)) <= 0.03
