"""Joining of answers over parts of the keys, for sequences whose keys are split between calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .attend import Attention
from .errors import invalid
from .job import as_hnd
from .tensors import FLOAT32, kind_of, narrow, read_tensor, widen


def merge(answers: Sequence[Attention], tensor_layout: str = "HND") -> Attention:
    """The attention over all keys, from answers over each part of them, with lse.

    lse = log(sum exp(lse_i)), out = sum exp(lse_i - lse) out_i. Computed in float32; best from
    answers with output_dtype="float32". The result is of the first answer's kind and dtype. A row
    that sees no key in any part gives 0 and -inf. Source: online softmax (Milakov and Gimelshein,
    2018).
    """
    if not answers or any(answer.lse is None for answer in answers):
        raise invalid("answers", "none, or one without lse", "one and more, with return_lse=True")
    lse = np.stack([widen(read_tensor("lse", answer.lse)) for answer in answers])
    top = lse.max(axis=0)
    weights = np.exp(lse - np.where(np.isfinite(top), top, np.float32(0)))
    total = weights.sum(axis=0)
    seen = total > 0
    weights /= np.where(seen, total, np.float32(1))
    first = read_tensor("out", answers[0].out)
    out = np.zeros(first.bits.shape, np.float32)
    for answer, weight in zip(answers, weights):
        out += as_hnd(weight[..., np.newaxis], tensor_layout) * widen(
            read_tensor("out", answer.out)
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        merged_lse = np.where(seen, top + np.log(total), np.float32(-np.inf))
    return Attention(
        out=kind_of(answers[0].out).array(narrow("out", out, first.dtype), first.dtype),
        lse=kind_of(answers[0].lse).array(merged_lse, FLOAT32),
        parts=tuple(part for answer in answers for part in answer.parts),
    )
