"""Outputs written to memory of the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sage_client import Client, InvalidArgumentError


def draw(rng: np.random.Generator, *shape: int) -> Any:
    return [rng.standard_normal(shape, np.float32).astype(np.float16) for _ in range(3)]


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("length", [130, 20_000])  # a message, and stripes of a stream
def test_the_output_goes_where_it_is_wanted(
    client: Client, rng: np.random.Generator, layout: str, length: int
) -> None:
    shape = (1, 4, length, 64) if layout == "HND" else (1, length, 4, 64)
    q, k, v = draw(rng, *shape)
    mask = rng.random((-(-length // 128), -(-length // 64))) < 0.02
    expected = client.attend(q, k, v, mask, tensor_layout=layout).out
    whole = np.full((2, *shape[1:], 2), np.nan, np.float16)
    apart = whole[1:, ..., 0]  # elements that lie apart
    for out in (np.full(shape, np.nan, np.float16), apart):
        answer = client.attend(q, k, v, mask, tensor_layout=layout, out=out)
        assert answer.out is out
        assert out.tobytes() == expected.tobytes()
    assert np.isnan(whole[0]).all()
    assert np.isnan(whole[1, ..., 1]).all()


def test_its_type_is_that_of_the_memory(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 2, 130, 64)
    out = np.empty(q.shape, np.float32)
    expected = client.attend(q, k, v, output_dtype="float32").out
    assert client.attend(q, k, v, out=out).out.tobytes() == expected.tobytes()
    with pytest.raises(InvalidArgumentError, match=r"out\.dtype: got float32, allowed output_dt"):
        client.attend(q, k, v, out=out, output_dtype="float16")


def test_with_kept_keys_and_values(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 2, 130, 64)
    out = np.empty_like(q)
    with client.put(k, v) as kept:
        assert kept.attend(q, out=out).out is out
        assert out.tobytes() == client.attend(q, k, v).out.tobytes()


def test_computed_here(unused_port: int, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 2, 130, 64)
    out = np.full(q.shape, np.nan, np.float16)
    here = Client(f"127.0.0.1:{unused_port}", retries=0, local_fallback=True)
    assert here.attend(q, k, v, out=out).out is out
    assert np.isfinite(out).all()


def test_memory_that_cannot_be_taken(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 2, 130, 64)
    read_only = np.empty_like(q)
    read_only.flags.writeable = False
    for out, message in (
        (np.empty_like(q[:, :1]), r"out\.shape: got \[1, 1, 130, 64\], allowed q's"),
        (np.empty(q.shape, np.float64), r"out\.dtype: got float64"),
        (np.empty(q.shape, q.dtype.newbyteorder(">")), r"out\.dtype: got >f2"),
        (read_only, "out: got an array that is read-only"),
        (v, "out: got memory of v, allowed memory of its own"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            client.attend(q, k, v, out=out)
    with pytest.raises(TypeError, match="out: a list"):
        client.attend(q, k, v, out=[1])
