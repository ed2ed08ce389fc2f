"""Blocks of k and v that no query reads do not travel; the answer's bits stay the same."""

from __future__ import annotations

from typing import Any

import fake_server
import grpc
import numpy as np
import pytest
from conftest import ServerProcess

from sage_client import Band, Client, SinkWindow, wire
from sage_client.blocks import used_blocks
from sage_client.masks import Mask, PackedMask, read_mask
from sage_client.problem import Problem
from sage_client.tensors import FLOAT16


def draw(rng: np.random.Generator, layout: str, *shape: int) -> Any:
    batch, heads, length, head_dim = shape
    in_layout = shape if layout == "HND" else (batch, length, heads, head_dim)
    return rng.standard_normal(in_layout, np.float32).astype(np.float16)


def read_by_some_query(mask: Any, problem: Problem) -> Any:
    """Blocks one by one: mask is [B, Hq, tiles, blocks]."""
    used = np.zeros((problem.batch, problem.num_heads_kv, problem.blocks_k), bool)
    for b, h, m, n in np.argwhere(mask):
        rows, keys = problem.lengths(b)
        seen = 128 * m < rows and 64 * n < keys
        if problem.is_causal:
            seen = seen and 64 * n <= 128 * m + 127 + keys - rows
        used[b, h // problem.group_size, n] |= seen
    return used


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 5, 9), (1, 1, 5, 9), (1, 4, 5, 9), (3, 1, 5, 9)])
@pytest.mark.parametrize("lengths", [((), ()), ((600, 0, 130), (1, 520, 0))])
def test_used_blocks(rng: np.random.Generator, is_causal: bool, shape: Any, lengths: Any) -> None:
    problem = Problem(
        *(3, 4, 2, 600, 520, 64, "HND", FLOAT16, FLOAT16, "fp16", is_causal, False),
        seqlens_q=lengths[0],
        seqlens_k=lengths[1],
    )
    bits = rng.random(shape) < 0.1
    mask: Mask = read_mask(bits, problem)
    assert isinstance(mask, PackedMask)
    whole = np.broadcast_to(bits, (3, 4, 5, 9))
    assert (used_blocks(mask, problem) == read_by_some_query(whole, problem)).all()
    every = np.ones((3, 4, 5, 9), bool)
    assert (used_blocks(None, problem) == read_by_some_query(every, problem)).all()


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize(
    ("precision", "prequantize"),
    [
        ("fp16", False),
        ("qk_int8_pv_fp16", False),
        ("qk_int8_pv_fp16", True),
        ("qk_int8_pv_fp8", False),
        ("qk_int8_pv_fp8", True),
    ],
)
def test_fewer_bytes_and_the_same_answer(
    client: Client, rng: np.random.Generator, layout: str, precision: str, prequantize: bool
) -> None:
    q = draw(rng, layout, 2, 4, 1000, 64)
    k, v = draw(rng, layout, 2, 2, 20_000, 64), draw(rng, layout, 2, 2, 20_000, 64)
    mask = (rng.random((2, 4, 8, 1)) < 2) & (rng.random((2, 4, 1, 313)) < 0.1)
    options: Any = {"precision": precision, "prequantize": prequantize, "return_lse": True}
    lengths = {"seqlens_q": [1000, 700], "seqlens_k": [20_000, 12_345]}
    striped = Client(client.servers, connections=2)
    answer = striped.attend(q, k, v, mask, True, layout, **options, **lengths)
    # Garbage that no query reads may change nothing, and is not even sent.
    used = np.zeros((2, 2, 313), bool)
    used |= mask.reshape(2, 2, 2, 8, 313).any((2, 3))
    by_row = np.repeat(used, 64, axis=2)[:, :, :20_000]
    by_row[1, :, 12_345:] = False
    unread = ~by_row if layout == "HND" else ~by_row.swapaxes(1, 2)
    bad_v = v.copy()
    if precision != "qk_int8_pv_fp8":
        bad_v[unread] = np.nan
    bad_k = k.copy()
    if precision == "fp16":
        bad_k[unread] = np.nan
    again = striped.attend(q, bad_k, bad_v, mask, True, layout, **options, **lengths)
    assert again.out.tobytes() == answer.out.tobytes()
    assert again.lse.tobytes() == answer.lse.tobytes()

    whole = q.nbytes + k.nbytes + v.nbytes
    if prequantize:
        whole -= (q.nbytes + k.nbytes) // 2
    rows = (by_row.sum() * 64).item()
    left_out = 0
    if precision != "qk_int8_pv_fp8":
        left_out += v.nbytes - 2 * rows
    if precision == "fp16":
        left_out += k.nbytes - 2 * rows
    elif prequantize:
        left_out += k.nbytes // 2 - rows
    sent = sum(part.bytes_in for part in answer.parts)
    assert whole - left_out <= sent <= whole - left_out * 0.7  # units of several heads leave less
    assert left_out == 0 or sent < whole


def test_what_is_left_out_counts_in_the_window(client: Client, rng: np.random.Generator) -> None:
    narrow = ServerProcess("--window", "1MiB", "--unit", "1MiB")  # no more than a unit fits
    try:
        q, k, v = (draw(rng, "HND", 1, 8, 4096, 64) for _ in range(3))
        for mask in (Band(0, 0), SinkWindow(1, 0), Band(1000, 1000)):
            one = Client(narrow.address, connections=1, timeout=120)
            answer = one.attend(q, k, v, mask, precision="fp16")
            expected = client.attend(q, k, v, mask, precision="fp16")
            assert answer.out.tobytes() == expected.out.tobytes()
            if mask == Band(1000, 1000):  # beyond all blocks
                assert answer.parts[0].bytes_in == q.nbytes
    finally:
        narrow.stop()


def test_servers_that_know_nothing_of_it_get_all(rng: np.random.Generator) -> None:
    q, k, v = (draw(rng, "HND", 1, 2, 8192, 64) for _ in range(3))
    received = 0

    def stream(requests: Any, context: grpc.ServicerContext) -> Any:
        nonlocal received
        header = wire.AttendStreamRequest.FromString(next(requests)).header
        assert header.omit_unused_kv
        unit = {"kv_head_count": 2, "q_count": 8192}
        plan = {"units": [unit], "window_bytes": 1 << 24, "max_chunk_bytes": 1 << 20}
        yield wire.AttendStreamResponse(accepted=plan).SerializeToString()
        while received < q.nbytes + k.nbytes + v.nbytes:
            received += len(wire.split_frame(next(requests))[1])
        for offset in (0, 1 << 20):
            chunk = wire.AttendStreamResponse(chunk={"tensor": wire.ROLE_OUTPUT, "offset": offset})
            yield wire.encode_frame(chunk.SerializeToString(), bytes(1 << 20))
        yield wire.AttendStreamResponse(trailer={}).SerializeToString()

    with fake_server.serve(stream=stream) as address:
        Client(address).attend(q, k, v, Band(5, 5), timeout=60)
    assert received == q.nbytes + k.nbytes + v.nbytes
