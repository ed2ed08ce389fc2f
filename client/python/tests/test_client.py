"""Several servers, retries, fallback, asyncio, cancellation, fork."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fake_server
import grpc
import numpy as np
import pytest
from conftest import ServerProcess
from oracle import attend, relative_l2

import sage_client
from sage_client import Client, SageError, dropin
from sage_client.credentials import Server


def draw(rng: np.random.Generator, *shape: int) -> Any:
    return [rng.standard_normal(shape, np.float32).astype(np.float16) for _ in range(3)]


def test_the_environment_names_the_server(
    server: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_SERVER", server)
    dropin.default_client.cache_clear()
    q, k, v = draw(rng, 1, 2, 130, 64)
    out = sage_client.sparse_sageattn(q, k, v, [[1, 0, 1], [0, 1, 0]], is_causal=True)
    assert relative_l2(out, attend(q, k, v, [[1, 0, 1], [0, 1, 0]], True)[0]) <= 0.03
    dropin.default_client.cache_clear()
    monkeypatch.setenv("SAGE_SERVER", "a:1, b:2")
    assert Client().servers == ("a:1", "b:2")


def test_info(client: Client) -> None:
    (info,) = client.info()
    assert info.server == client.servers[0]
    assert len(info.server_id) == 32
    assert info.backend == "cpu"
    assert set(info.precisions) == {"qk_int8_pv_fp16", "qk_int8_pv_fp8", "fp16"}


def test_heads_are_spread_over_servers(server: str, rng: np.random.Generator) -> None:
    second = ServerProcess()
    try:
        q, k, v = draw(rng, 1, 8, 16384, 64)
        mask = (rng.random((8, 128, 256)) < 0.02).astype(np.int8)
        answer = Client([server, second.address]).attend(q, k, v, mask)
        assert {part.server for part in answer.parts} == {server, second.address}
        assert answer.out.tobytes() == Client(server).attend(q, k, v, mask).out.tobytes()
    finally:
        second.stop()


@pytest.mark.parametrize(
    ("shape", "stripes"),  # batch, query heads, KV heads, length
    [
        ((1, 8, 1, 20_000), 2),
        ((3, 2, 2, 16_000), 4),
        ((2, 2, 2, 16_000), 2),
        ((1, 1, 1, 50_000), 1),
    ],
)
def test_batch_entries_heads_and_groups_are_striped(
    client: Client, rng: np.random.Generator, shape: Any, stripes: int
) -> None:
    batch, heads, heads_kv, length = shape
    (q, _, _), (k, v, _) = (draw(rng, batch, h, length, 64) for h in (heads, heads_kv))
    mask = rng.random((batch, heads, -(-length // 128), -(-length // 64))) < 0.01
    lengths = {"seqlens_k": [length - 1 - b for b in range(batch)], "return_lse": True}
    one, four = (Client(client.servers, connections=n) for n in (1, 4))
    answer, expected = (c.attend(q, k, v, mask, **lengths) for c in (four, one))
    assert (len(answer.parts), len(expected.parts)) == (stripes, 1)
    assert answer.out.tobytes() == expected.out.tobytes()
    assert answer.lse.tobytes() == expected.lse.tobytes()


def test_small_requests_take_turns(rng: np.random.Generator, server: str) -> None:
    q, k, v = draw(rng, 1, 1, 64, 64)
    both = Client([server, server.replace("127.0.0.1", "localhost")])
    used = [both.attend(q, k, v).parts[0].server for _ in range(4)]
    assert used == [*both.servers, *both.servers]


@pytest.mark.parametrize("length", [64, 30_000])  # inline, and streamed
def test_a_dead_server_is_passed_over(
    server: str, unused_port: int, rng: np.random.Generator, length: int
) -> None:
    q, k, v = draw(rng, 1, 2, length, 64)
    mask = [[0] * (-(-length // 64))] * (-(-length // 128))
    answer = Client([f"127.0.0.1:{unused_port}", server]).attend(q, k, v, mask)
    assert {part.server for part in answer.parts} == {server}


@pytest.mark.parametrize("end", [ServerProcess.stop, ServerProcess.kill])
def test_nothing_is_lost_when_a_server_goes(
    server: str, rng: np.random.Generator, end: Callable[[ServerProcess], None]
) -> None:
    doomed = ServerProcess()
    client = Client([doomed.address, server], timeout=120)
    small, large = draw(rng, 1, 2, 200, 64), draw(rng, 1, 4, 40_000, 64)
    mask = rng.random((313, 625)) < 0.002
    expected = [Client(server).attend(*small).out, Client(server).attend(*large, mask).out]
    requests = [(small, None, expected[0]), (large, mask, expected[1])]
    rounds, gone = threading.Semaphore(0), threading.Event()
    wrong = []

    def load() -> None:
        while not gone.is_set():
            for (q, k, v), blocks, right in requests:
                if client.attend(q, k, v, blocks).out.tobytes() != right.tobytes():
                    wrong.append(q.shape)
            rounds.release()

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load) for _ in range(2)]
        try:
            for _ in range(3):
                assert rounds.acquire(timeout=60)
            end(doomed)
            for _ in range(3):
                assert rounds.acquire(timeout=60)
        finally:
            gone.set()
        for running in loads:
            running.result()
    assert not wrong


def test_a_draining_server_is_asked_again(server: str, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 1, 64, 64)
    real = grpc.insecure_channel(server).unary_unary("/sage.v1.Attention/Attend")
    calls = []

    def attend_third_time(request: bytes, context: grpc.ServicerContext) -> Any:
        calls.append(time.monotonic())
        if len(calls) == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        if len(calls) == 2:
            fake_server.busy(context, retry_seconds=0.4)
        return real(request)

    with fake_server.serve(attend=attend_third_time) as address:
        out = Client(address).attend(q, k, v).out
    assert out.tobytes() == Client(server).attend(q, k, v).out.tobytes()
    assert len(calls) == 3
    assert calls[2] - calls[1] >= 0.4  # the server's own delay is kept to


@pytest.mark.parametrize(
    ("code", "attempts"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3),
        (grpc.StatusCode.CANCELLED, 3),  # not by this client
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),  # it does not say that waiting helps
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.FAILED_PRECONDITION, 1),
    ],
)
def test_only_what_may_pass_is_retried(
    rng: np.random.Generator, code: grpc.StatusCode, attempts: int
) -> None:
    q, k, v = draw(rng, 1, 1, 64, 64)
    calls = []

    def refuse(request: bytes, context: grpc.ServicerContext) -> Any:
        calls.append(request)
        context.abort(code, "no")

    with fake_server.serve(attend=refuse) as address, pytest.raises(SageError) as caught:
        Client(address, retries=2).attend(q, k, v)
    assert caught.value.code == code
    assert len(calls) == attempts


def test_retries_end_before_the_deadline(rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 1, 64, 64)
    calls = []

    def refuse(request: bytes, context: grpc.ServicerContext) -> Any:
        calls.append(request)
        fake_server.busy(context, retry_seconds=0.9)

    with fake_server.serve(attend=refuse) as address, pytest.raises(SageError) as caught:
        Client(address, timeout=0.8).attend(q, k, v)
    assert caught.value.retry_delay == pytest.approx(0.9)
    assert len(calls) == 1


def test_local_fallback_only_where_asked_for(unused_port: int, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 4, 300, 64)
    mask = (rng.random((4, 3, 5)) < 0.5).astype(np.int8)
    address = f"127.0.0.1:{unused_port}"
    with pytest.raises(SageError, match="is sage-server running there"):
        Client(address, retries=0).attend(q, k, v, mask)
    fallback = Client(address, retries=0, local_fallback=True)
    answer = fallback.attend(q, k, v, mask, True, return_lse=True)
    out, lse = attend(q, k, v, mask, True)
    assert answer.parts == ()
    assert relative_l2(answer.out, out) <= 0.002
    assert np.array_equal(np.isfinite(answer.lse), np.isfinite(lse))
    assert np.allclose(answer.lse, lse, atol=1e-4)


def test_local_fallback_has_the_whole_contract(
    unused_port: int, client: Client, rng: np.random.Generator
) -> None:
    fallback = Client(f"127.0.0.1:{unused_port}", retries=0, local_fallback=True)
    q, k, v = (
        rng.standard_normal((2, s, h, 64), np.float32) for s, h in ((300, 4), (500, 2), (500, 2))
    )
    same = np.ascontiguousarray(q[:, :, :2])
    cases: list[tuple[Any, Any]] = [
        ((q, k, v, None), {"seqlens_q": [300, 120], "seqlens_k": [77, 500]}),
        ((q, k, v, sage_client.SlidingWindow(1, 1)), {}),
        ((q, k, v, sage_client.SinkWindow(1, 1)), {}),
        ((q, k, v, sage_client.Strided(3, 1, 1)), {}),
        ((q, k, v, sage_client.Band(-1, 1)), {}),
        ((same, same, same, sage_client.Documents([100, 30, 170])), {"softmax_scale": 0.2}),
    ]
    for arguments, options in cases:
        for is_causal in (False, True):
            exact = {"precision": "fp16", "return_lse": True, **options}
            here = fallback.attend(*arguments, is_causal, "NHD", **exact)
            there = client.attend(*arguments, is_causal, "NHD", **exact)
            assert relative_l2(here.out, there.out.astype(np.float64)) <= 0.002
            assert np.array_equal(np.isfinite(here.lse), np.isfinite(there.lse))
            assert np.allclose(here.lse, there.lse, atol=1e-3)


def test_asyncio(client: Client, rng: np.random.Generator) -> None:
    inputs = [draw(rng, 1, 2, 200, 64) for _ in range(5)]

    async def all_at_once() -> Any:
        return await asyncio.gather(*(client.attend_async(*qkv) for qkv in inputs))

    for qkv, answer in zip(inputs, asyncio.run(all_at_once())):
        assert answer.out.tobytes() == client.attend(*qkv).out.tobytes()


def test_cancelling_a_coroutine_ends_its_calls(rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 4, 32768, 64)
    entered, ended = threading.Semaphore(0), threading.Semaphore(0)

    def never_answer(requests: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(ended.release)
        entered.release()
        yield from ()
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(60)

    async def cancelled(address: str) -> None:
        client = Client(address, connections=2, timeout=60)
        call = asyncio.create_task(client.attend_async(q, k, v))
        loop = asyncio.get_running_loop()
        for _ in range(2):
            assert await loop.run_in_executor(None, entered.acquire, True, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with fake_server.serve(stream=never_answer) as address:
        asyncio.run(cancelled(address))
        for _ in range(2):
            assert ended.acquire(timeout=30)


def test_one_failed_stripe_ends_the_others(rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 2, 65536, 64)
    first = threading.Lock()
    waiting, ended = threading.Event(), threading.Event()

    def fail_second(requests: Any, context: grpc.ServicerContext) -> Any:
        if first.acquire(blocking=False):
            context.add_callback(ended.set)
            waiting.set()
            ended.wait(30)
        else:
            waiting.wait(30)
            context.abort(grpc.StatusCode.INTERNAL, "planted")
        yield b""

    with (
        fake_server.serve(stream=fail_second) as address,
        pytest.raises(SageError, match="planted"),
    ):
        Client(address, connections=2).attend(q, k, v)
    assert ended.is_set()


def test_a_forked_child_connects_anew(client: Client, rng: np.random.Generator) -> None:
    q, k, v = draw(rng, 1, 2, 10_000, 64)
    mask = np.eye(79, 157, dtype=np.int8)
    expected = client.attend(q, k, v, mask).out.tobytes()
    child = os.fork()
    if child == 0:
        same = client.attend(q, k, v, mask, timeout=60).out.tobytes() == expected
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client.attend(q, k, v, mask).out.tobytes() == expected


def test_one_channel_pool_for_all_clients(server: str) -> None:
    from sage_client import channels

    known = Server(server)
    assert channels.channel(known, 1) is channels.channel(Server(server), 1)
    assert channels.channel(known, 0) is not channels.channel(known, 1)
