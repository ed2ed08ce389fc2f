"""Quantisation spec `sage1` in numpy: the same bits as the server's.

Every step is one IEEE fp32 operation per element, rounded to nearest even; sums are taken in the
order that the spec gives. Arrays are [B, H, S, D] float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .problem import BLOCK_N, ceil_div

Floats = np.ndarray[Any, np.dtype[np.float32]]
_SMALLEST = np.float32(2.0**-100)  # a group whose largest magnitude is below counts as zero


@dataclass(frozen=True)
class Quantized:
    """int8 [B, H, S, D], and fp32 scales [B, H, groups]."""

    values: np.ndarray[Any, np.dtype[np.int8]]
    scales: Floats


def smoothing(k: Floats) -> Floats:
    """The smoothing vector c [B, H, D]: the tokens' mean, where what is not finite counts as 0."""
    blocks = _in_blocks(np.where(np.isfinite(k), k, np.float32(0)))
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite c is c all the same
        block_sums = np.zeros((*blocks.shape[:3], blocks.shape[4]), np.float32)
        for token in range(BLOCK_N):  # in order; numpy's own sum would be pairwise
            block_sums += blocks[:, :, :, token]
        total = np.zeros(block_sums[:, :, 0].shape, np.float32)
        for block in range(block_sums.shape[2]):
            total += block_sums[:, :, block]
        mean: Floats = total * (np.float32(1) / np.float32(k.shape[2]))
    return mean


def quantize_q(q: Floats) -> Quantized:
    """Q, one scale per token."""
    values, scales = _quantize_groups(q[..., np.newaxis, :])
    return Quantized(values.reshape(q.shape), scales)


def quantize_k(k: Floats, c: Floats) -> Quantized:
    """K less its smoothing vector, one scale per block of 64 tokens."""
    with np.errstate(over="ignore", invalid="ignore"):
        centred = _in_blocks(k - c[:, :, np.newaxis])
    values, scales = _quantize_groups(centred)
    return Quantized(values.reshape(*k.shape[:2], -1, k.shape[3])[:, :, : k.shape[2]], scales)


def dot_smoothing(q: Floats, c: Floats) -> Floats:
    """q.c per row, [B, Hq, S]; c is [B, Hq, D].

    Products of eight channels in a row are summed in order, these sums in pairs, neighbours first.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        products = q * c[:, :, np.newaxis]
        sums = [np.zeros(q.shape[:3], np.float32) for _ in range(0, q.shape[3], 8)]
        for channel in range(q.shape[3]):
            sums[channel // 8] += products[..., channel]
        while len(sums) > 1:
            sums += [np.zeros_like(sums[0])] * (len(sums) % 2)
            sums = [even + odd for even, odd in zip(sums[::2], sums[1::2])]
    return sums[0]


def _in_blocks(x: Floats) -> Floats:
    """[B, H, blocks, 64, D]; tokens past the end are 0."""
    batch, heads, seqlen, head_dim = x.shape
    blocks = ceil_div(seqlen, BLOCK_N)
    padded = np.zeros((batch, heads, blocks * BLOCK_N, head_dim), np.float32)
    padded[:, :, :seqlen] = x
    return padded.reshape(batch, heads, blocks, BLOCK_N, head_dim)


def _quantize_groups(x: Floats) -> Any:
    """int8 values, and scales, of groups that are the last two dimensions."""
    magnitude = np.abs(x).max(axis=(-2, -1))
    finite = np.isfinite(magnitude)  # max() hands NaN and infinity through
    counts = finite & (magnitude >= _SMALLEST)
    divisor = np.where(counts, magnitude, np.float32(1))
    ratio = np.float32(127) / divisor
    scaled = np.where(counts[..., None, None], x, np.float32(0)) * ratio[..., None, None]
    values = np.clip(np.rint(scaled), -127, 127).astype(np.int8)
    scales = np.where(counts, magnitude / np.float32(127), np.float32(0))
    return values, np.where(finite, scales, np.float32(np.nan))
