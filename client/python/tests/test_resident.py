"""K and V that stay at the servers."""

from __future__ import annotations

import asyncio
from typing import Any

import fake_server
import grpc
import numpy as np
import pytest
from conftest import ServerProcess
from oracle import LIMITS, attend, relative_l2

from sage_client import Client, InvalidArgumentError, SageError, SlidingWindow, wire


def draw(
    rng: np.random.Generator, heads: int, length: int, layout: str = "HND", dtype: Any = np.float16
) -> Any:
    shape = (2, heads, length, 64) if layout == "HND" else (2, length, heads, 64)
    return rng.standard_normal(shape, np.float32).astype(dtype)


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("length", [65, 20_000])  # a chunk, and many
def test_only_q_travels_and_the_answer_is_the_same(
    client: Client, rng: np.random.Generator, layout: str, length: int
) -> None:
    k, v = draw(rng, 2, length, layout), draw(rng, 2, length, layout)
    with client.put(k, v, layout) as kept:
        assert kept.shape == k.shape
        assert kept.lease_seconds > 0
        for rows in (1, 130, 5000):
            q = draw(rng, 4, rows, layout)
            mask = rng.random((4, -(-rows // 128), -(-length // 64))) < 0.1
            here = client.attend(q, k, v, mask, True, layout, return_lse=True)
            there = kept.attend(q, mask, True, return_lse=True)
            assert there.out.tobytes() == here.out.tobytes()
            assert there.lse.tobytes() == here.lse.tobytes()
            assert sum(part.bytes_in for part in there.parts) == q.nbytes


def test_against_float64(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 4, 300), draw(rng, 2, 500), draw(rng, 2, 500)
    mask = rng.random((4, 3, 8)) < 0.5
    with client.put(k, v, precisions=["fp16", "qk_int8_pv_fp16"]) as kept:
        for precision in ("fp16", "qk_int8_pv_fp16"):
            out = kept.attend(q, mask, precision=precision).out
            assert relative_l2(out, attend(q, k, v, mask)[0]) <= LIMITS[precision, "float16"]


def test_float32_is_kept_as_float16(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 2, 99, dtype=np.float32), draw(rng, 2, 77), draw(rng, 2, 77)
    with client.put(k.astype(np.float32), v.astype(np.float32)) as kept:
        expected = client.attend(q.astype(np.float16), k, v, output_dtype="float32").out
        assert kept.attend(q).out.tobytes() == expected.tobytes()


def test_heads_are_spread_over_servers(server: str, rng: np.random.Generator) -> None:
    second = ServerProcess()
    try:
        q, k, v = draw(rng, 6, 200), draw(rng, 3, 300), draw(rng, 3, 300)
        mask = rng.random((6, 2, 5)) < 0.5
        with Client([server, second.address]).put(k, v) as kept:
            answer = kept.attend(q, mask)
            assert [part.server for part in answer.parts] == [server, second.address]
            assert answer.out.tobytes() == Client(server).attend(q, k, v, mask).out.tobytes()
    finally:
        second.stop()


def test_asyncio(client: Client, rng: np.random.Generator) -> None:
    k, v = draw(rng, 1, 200), draw(rng, 1, 200)
    queries = [draw(rng, 2, rows) for rows in (1, 64, 129)]
    with client.put(k, v) as kept:

        async def all_at_once() -> Any:
            return await asyncio.gather(*(kept.attend_async(q) for q in queries))

        for q, answer in zip(queries, asyncio.run(all_at_once())):
            assert answer.out.tobytes() == client.attend(q, k, v).out.tobytes()


def test_leases_and_release(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 64), draw(rng, 1, 64), draw(rng, 1, 64)
    kept = client.put(k, v, lease=7.5)
    assert 0 < kept.lease_seconds <= 7.5
    kept.renew(90)
    assert 7.5 < kept.lease_seconds <= 90
    kept.attend(q)
    kept.release()
    kept.release()
    for gone in (lambda: kept.attend(q), kept.renew):
        with pytest.raises(SageError) as caught:
            gone()
        assert caught.value.code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("layout", ["HND", "NHD"])
@pytest.mark.parametrize("length", [200, 9000])  # one message, and a stream
def test_nothing_travels_where_all_is_kept(
    client: Client, rng: np.random.Generator, layout: str, length: int
) -> None:
    q, k, v = (draw(rng, heads, length, layout) for heads in (4, 2, 2))
    mask = rng.random((2, 4, -(-length // 128), -(-length // 64))) < 0.1
    expected = client.attend(q, k, v, mask, True, layout, return_lse=True)
    with client.put(k, v, layout) as kept, kept.put_q(q) as kept_q:
        kept_mask, kept_out = kept.put_mask(mask, q.shape), kept.put_output(q.shape)
        assert kept_q.get().tobytes() == q.tobytes()
        assert not kept_out.get().any()
        for _ in range(2):
            answer = kept.attend(kept_q, kept_mask, True, out=kept_out, return_lse=True)
            assert answer.out is kept_out
            assert answer.lse.tobytes() == expected.lse.tobytes()
            assert [(part.bytes_in, part.bytes_out) for part in answer.parts] == [
                (0, answer.lse.nbytes)
            ]
            assert kept_out.get().tobytes() == expected.out.tobytes()
        kept.attend(kept_q, kept_mask, out=kept_out)  # no lse: empty chunks alone come back
        assert kept_out.get().tobytes() == client.attend(q, k, v, mask, False, layout).out.tobytes()


def test_each_operand_may_be_kept_or_not(client: Client, rng: np.random.Generator) -> None:
    q, k, v = (draw(rng, heads, 300, dtype=np.float32) for heads in (4, 2, 2))
    pattern = SlidingWindow(1, 0)
    half = [x.astype(np.float16) for x in (q, k, v)]
    with client.put(k, v) as kept:
        expected = client.attend(*half, pattern).out
        kept_q, kept_mask = kept.put_q(q), kept.put_mask(pattern, q.shape)
        assert kept_q.dtype == "float16"
        assert kept.attend(kept_q, pattern).out.tobytes() == expected.tobytes()
        assert kept.attend(half[0], kept_mask).out.tobytes() == expected.tobytes()
        expected = client.attend(*half, pattern, output_dtype="float32").out
        assert kept.attend(q, kept_mask).out.tobytes() == expected.tobytes()
        kept_out = kept.put_output(q.shape, dtype="float32")
        kept.attend(kept_q, kept_mask, out=kept_out)
        assert kept_out.get().tobytes() == expected.tobytes()
        asyncio.run(kept.attend_async(kept_q, kept_mask, out=kept_out))


def test_all_of_a_request_is_spread_over_servers(server: str, rng: np.random.Generator) -> None:
    second = ServerProcess()
    try:
        q, k, v = draw(rng, 6, 200), draw(rng, 3, 300), draw(rng, 3, 300)
        mask = rng.random((6, 2, 5)) < 0.5
        with Client([server, second.address]).put(k, v) as kept:
            kept_q, kept_mask = kept.put_q(q), kept.put_mask(mask, q.shape)
            kept_out = kept.put_output(q.shape)
            answer = kept.attend(kept_q, kept_mask, out=kept_out)
            assert [part.server for part in answer.parts] == [server, second.address]
            expected = Client(server).attend(q, k, v, mask).out
            assert kept_out.get().tobytes() == expected.tobytes()
            assert kept_q.get().tobytes() == q.tobytes()
    finally:
        second.stop()


def test_parts_of_what_is_kept_are_striped(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 6, 17_000), draw(rng, 3, 300), draw(rng, 3, 300)
    mask = rng.random((2, 6, 133, 5)) < 0.3
    expected = client.attend(q, k, v, mask, return_lse=True)
    with Client(client.servers, connections=3).put(k, v) as kept:
        kept_q, kept_mask = kept.put_q(q), kept.put_mask(mask, q.shape)
        kept_out = kept.put_output(q.shape)
        for queries, blocks, out in (
            (q, mask, None),  # q and the output travel
            (kept_q, kept_mask, None),
            (q, kept_mask, kept_out),
        ):
            answer = kept.attend(queries, blocks, out=out, return_lse=True)
            assert len(answer.parts) == 3
            actual = answer.out if out is None else kept_out.get()
            assert actual.tobytes() == expected.out.tobytes()
            assert answer.lse.tobytes() == expected.lse.tobytes()
        assert len(kept.attend(kept_q, kept_mask, out=kept_out).parts) == 1


def test_what_is_kept_must_fit(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 4, 100), draw(rng, 2, 64), draw(rng, 2, 64)
    with client.put(k, v) as kept, client.put(k, v) as others:
        with pytest.raises(InvalidArgumentError, match=r"q\.shape: got 3 heads"):
            kept.put_q(q[:, :3])
        with pytest.raises(InvalidArgumentError, match=r"q\.dtype: got bfloat16, allowed k's"):
            kept.put_q(q.astype(np.float32), dtype="bfloat16")
        with pytest.raises(InvalidArgumentError, match=r"mask_id\.shape: got \[2, 1\]"):
            kept.put_mask(np.ones((2, 1), bool), q.shape)
        with pytest.raises(InvalidArgumentError, match="mask_id: got None"):
            kept.put_mask(None, q.shape)
        with pytest.raises(InvalidArgumentError, match="dtype: got 'int8'"):
            kept.put_output(q.shape, dtype="int8")
        with pytest.raises(InvalidArgumentError, match="q: got one kept with other keys"):
            kept.attend(others.put_q(q))
        with pytest.raises(InvalidArgumentError, match=r"out\.shape: got \[2, 4, 99, 64\]"):
            kept.attend(q, out=kept.put_output(q[:, :, 1:].shape))
        with pytest.raises(InvalidArgumentError, match=r"fp16, HND, allowed .* fp32, HND"):
            kept.attend(q, out=kept.put_output(q.shape), output_dtype="float32")
        kept_q = kept.put_q(q)
        with pytest.raises(InvalidArgumentError, match="prequantize: got True"):
            kept.attend(kept_q, prequantize=True)
        kept_q.release()
        for gone in (lambda: kept.attend(kept_q), kept_q.get, kept_q.renew):
            with pytest.raises(SageError) as caught:
                gone()
            assert caught.value.code == grpc.StatusCode.NOT_FOUND


def test_broken_answers_to_get(rng: np.random.Generator) -> None:
    def chunk(offset: int, size: int) -> Any:
        fields = wire.GetResponse(chunk={"offset": offset}).SerializeToString()
        return wire.encode_frame(fields, bytes(size))

    q = draw(rng, 1, 64)
    broken = [[chunk(0, 16)], [chunk(8, 16)], [chunk(0, q.nbytes + 2)], [b"\xff"]]
    answers = iter(broken)

    def put(requests: Any, context: grpc.ServicerContext) -> Any:
        list(requests)
        return wire.PutResponse(handle={"id": b"k" * 16}).SerializeToString()

    def get(request: bytes, context: grpc.ServicerContext) -> Any:
        yield from next(answers)

    with fake_server.serve(put=put, get=get) as address:
        kept = Client(address, retries=0).put(q, q).put_q(q)
        for _ in broken:
            with pytest.raises(SageError, match="the server broke the protocol"):
                kept.get()


def test_bad_arguments(client: Client, rng: np.random.Generator) -> None:
    k, v = draw(rng, 2, 64), draw(rng, 2, 64)
    with pytest.raises(InvalidArgumentError, match=r"v\.shape"):
        client.put(k, v[:, :, 1:])
    with pytest.raises(InvalidArgumentError, match=r"v\.dtype: got float32, allowed k's"):
        client.put(k, v.astype(np.float32))
    with pytest.raises(InvalidArgumentError, match="precisions: got 'int3'"):
        client.put(k, v, precisions=["int3"])
    with pytest.raises(InvalidArgumentError, match="lease: got 0"):
        client.put(k, v, lease=0)
    large = np.full((2, 1, 64, 64), 1e6, np.float32)
    with pytest.raises(InvalidArgumentError, match="which float16 cannot hold"):
        client.put(large, large)
    with client.put(k, v) as kept:
        with pytest.raises(InvalidArgumentError, match=r"k\.shape: got .* allowed q's batch 1"):
            kept.attend(draw(rng, 2, 64)[:1])
        with pytest.raises(InvalidArgumentError, match="prequantize: got True"):
            kept.attend(draw(rng, 2, 64), prequantize=True)


def test_a_put_is_retried_with_its_key_and_undone_where_one_fails(rng: np.random.Generator) -> None:
    k, v = draw(rng, 1, 64), draw(rng, 1, 64)
    keys, released = [], []

    def put(requests: Any, context: grpc.ServicerContext) -> Any:
        first = wire.PutRequest.FromString(next(requests))
        keys.append(first.idempotency_key)
        if first.spec.role == wire.ROLE_V:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "never fits")
        if len(keys) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        list(requests)
        return wire.PutResponse(handle={"id": b"k" * 16}).SerializeToString()

    def release(request: bytes, context: grpc.ServicerContext) -> Any:
        released.extend(h.id for h in wire.ReleaseRequest.FromString(request).handles)
        return b""

    with (
        fake_server.serve(put=put, release=release) as address,
        pytest.raises(SageError, match="never fits"),
    ):
        Client(address).put(k, v)
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]
    assert released == [b"k" * 16]
