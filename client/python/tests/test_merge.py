"""Answers over split keys, joined."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import LIMITS, assert_lse_close, attend, relative_l2

from sage_client import Client, InvalidArgumentError, merge


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parts_of_the_keys_give_the_whole(
    client: Client, rng: np.random.Generator, layout: str, dtype: str
) -> None:
    axis = 2 if layout == "HND" else 1

    def draw(heads: int, length: int) -> np.ndarray:
        shape = (2, heads, length, 64) if layout == "HND" else (2, length, heads, 64)
        return rng.standard_normal(shape, np.float32).astype(np.float16)

    q, k, v = draw(4, 200), draw(2, 640), draw(2, 640)
    mask = rng.random((4, 2, 10)) < 0.5
    mask[:, 0] = False  # rows that see nothing in any part
    mask[:, 1, :4] = False  # and some that see nothing in one
    answers = []
    for begin, end in ((0, 256), (256, 320), (320, 640)):
        k1, v1 = (np.take(x, range(begin, end), axis) for x in (k, v))
        blocks = mask[:, :, begin // 64 : end // 64]
        answers.append(
            client.attend(
                q,
                k1,
                v1,
                blocks,
                False,
                layout,
                return_lse=True,
                precision="fp16",
                output_dtype=dtype,
            )
        )
    whole = merge(answers, layout)
    out, lse = attend(q, k, v, mask, layout=layout)
    assert whole.out.dtype == dtype
    assert relative_l2(whole.out, out) <= LIMITS["fp16", "float16"]
    assert_lse_close(whole.lse, lse, "fp16")
    assert len(whole.parts) == 3


def test_answers_need_lse(client: Client) -> None:
    q = np.zeros((1, 1, 64, 64), np.float16)
    with pytest.raises(InvalidArgumentError, match="answers: got none, or one without lse"):
        merge([client.attend(q, q, q)])
