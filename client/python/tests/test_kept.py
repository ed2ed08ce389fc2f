"""Tensors that stay at a server for as long as they are wanted: leases, restarts, releases."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, TypeVar

import fake_server
import grpc
import numpy as np
import pytest
from conftest import ServerProcess

from sage_client import Client, DeadlineExceededError, SageError, wire

PATIENCE = 60.0  # seconds

T = TypeVar("T")


def draw(rng: np.random.Generator, heads: int, length: int) -> Any:
    return rng.standard_normal((2, heads, length, 64), np.float32).astype(np.float16)


class RestartedServer:
    """A server that can be stopped and started again at one address."""

    def __init__(self, socket: Path) -> None:
        self.address = f"unix:{socket}"
        self._process = ServerProcess("--listen", self.address)

    def restart(self) -> None:
        self._process.stop()
        self._process = ServerProcess("--listen", self.address)

    def stop(self) -> None:
        self._process.stop()


@pytest.fixture
def restarted(tmp_path: Path) -> Iterator[RestartedServer]:
    server = RestartedServer(tmp_path / "sage")
    yield server
    server.stop()


def until(done: Callable[[], T | None]) -> T:
    """What the first call returns that returns something."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        result = done()
        if result is not None:
            return result
    raise AssertionError("waited in vain")


def test_leases_are_renewed_by_themselves(client: Client, rng: np.random.Generator) -> None:
    with client.put(draw(rng, 1, 64), draw(rng, 1, 64), lease=2) as kept:
        (tensor, _), *_ = kept._stored
        handle, first = tensor.handle, tensor.renew_at
        second = until(lambda: tensor.renew_at if tensor.renew_at > first else None)
        until(lambda: True if tensor.renew_at > second else None)
        assert tensor.handle is handle
        assert 0 < kept.lease_seconds <= 2
        kept.attend(draw(rng, 1, 64))


@pytest.mark.parametrize("length", [300, 20_000])  # a message, and stripes of a stream
def test_what_a_restart_loses_is_put_again(
    restarted: RestartedServer, rng: np.random.Generator, length: int
) -> None:
    q, k, v = draw(rng, 4, length), draw(rng, 2, 200), draw(rng, 2, 200)
    mask = rng.random((4, -(-length // 128), 4)) < 0.5
    client = Client(restarted.address, timeout=PATIENCE)
    expected = client.attend(q, k, v, mask).out
    with client.put(k, v) as kept:
        kept_q, kept_mask = kept.put_q(q), kept.put_mask(mask, q.shape)
        kept_out = kept.put_output(q.shape)
        for _ in range(2):
            assert kept.attend(q, mask).out.tobytes() == expected.tobytes()
            kept.attend(kept_q, kept_mask, out=kept_out)
            assert kept_out.get().tobytes() == expected.tobytes()
            restarted.restart()
            with pytest.raises(SageError) as caught:
                kept_out.get()  # what was written is lost, and that is said
            assert caught.value.code == grpc.StatusCode.NOT_FOUND
        assert asyncio.run(kept.attend_async(kept_q, kept_mask)).out.tobytes() == expected.tobytes()


def test_all_that_find_out_get_their_answers(
    restarted: RestartedServer, rng: np.random.Generator
) -> None:
    q, k, v = draw(rng, 2, 100), draw(rng, 2, 200), draw(rng, 2, 200)
    client = Client(restarted.address, timeout=PATIENCE)
    expected = client.attend(q, k, v).out.tobytes()
    with client.put(k, v) as kept:
        restarted.restart()
        with ThreadPoolExecutor(8) as pool:
            for answer in pool.map(lambda _: kept.attend(q), range(16)):
                assert answer.out.tobytes() == expected


def test_what_a_restart_loses_is_put_again_in_the_background(
    restarted: RestartedServer, rng: np.random.Generator
) -> None:
    q, k, v = draw(rng, 2, 100), draw(rng, 2, 200), draw(rng, 2, 200)
    client = Client(restarted.address, timeout=PATIENCE)
    with client.put(k, v) as kept, kept.put_q(q, lease=1) as kept_q:
        restarted.restart()

        def back() -> Any:
            try:
                return kept_q.get()
            except SageError as error:
                if error.code != grpc.StatusCode.NOT_FOUND:
                    raise
                return None

        assert until(back).tobytes() == q.tobytes()


class Tensors:
    """A server that keeps nothing, and tells what it is asked."""

    def __init__(self, again: Callable[[], object] = lambda: None) -> None:
        self.released: list[bytes] = []
        self.was_released = threading.Event()
        self.puts = 0
        self.keys: list[bytes] = []
        self._again = again  # what a put does that is not the first of k or v
        self._lock = threading.Lock()

    def put(self, requests: Any, context: grpc.ServicerContext) -> Any:
        first = wire.PutRequest.FromString(next(requests))
        for _ in requests:
            pass
        with self._lock:
            self.puts += 1
            number = self.puts
            self.keys.append(first.idempotency_key)
        if number > 2:
            self._again()
        answer = wire.PutResponse(handle={"id": b"%016d" % number}, lease={"seconds": 600})
        return answer.SerializeToString()

    def release(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.released += [h.id for h in wire.ReleaseRequest.FromString(request).handles]
            if len(self.released) == 2:
                self.was_released.set()
        return b""

    @staticmethod
    def attend(request: bytes, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such tensor")


def test_what_nothing_refers_to_is_released(rng: np.random.Generator) -> None:
    tensors = Tensors()
    with fake_server.serve(put=tensors.put, release=tensors.release) as address:
        kept = Client(address).put(draw(rng, 1, 64), draw(rng, 1, 64))
        assert not tensors.released
        del kept
        gc.collect()
        assert tensors.was_released.wait(PATIENCE)
        assert sorted(tensors.released) == [b"%016d" % 1, b"%016d" % 2]


def test_a_request_is_sent_once_more_and_puts_have_their_keys(rng: np.random.Generator) -> None:
    tensors = Tensors()
    x = draw(rng, 1, 64)
    with fake_server.serve(
        put=tensors.put, release=tensors.release, attend=tensors.attend
    ) as address:
        with Client(address).put(x, x) as kept, pytest.raises(SageError) as caught:
            kept.attend(x)
        assert caught.value.code == grpc.StatusCode.NOT_FOUND
        assert tensors.keys[:2] == tensors.keys[2:]
        assert tensors.keys[0] != tensors.keys[1]


def test_putting_again_is_within_the_time_of_the_request(rng: np.random.Generator) -> None:
    over = threading.Event()
    tensors = Tensors(again=lambda: over.wait(PATIENCE))
    x = draw(rng, 1, 64)
    with fake_server.serve(
        put=tensors.put, release=tensors.release, attend=tensors.attend
    ) as address:
        kept = Client(address).put(x, x)

        def attend(_: int) -> None:
            with pytest.raises(DeadlineExceededError):
                kept.attend(x, timeout=1)

        with ThreadPoolExecutor(2) as pool:  # the second waits for the first one's put
            list(pool.map(attend, range(2)))
        over.set()
        kept.release()


def test_a_put_that_fails_again_is_told(rng: np.random.Generator) -> None:
    context_of: list[grpc.ServicerContext] = []
    tensors = Tensors(again=lambda: context_of[-1].abort(grpc.StatusCode.INTERNAL, "no luck"))

    def put(requests: Any, context: grpc.ServicerContext) -> Any:
        context_of.append(context)
        return tensors.put(requests, context)

    x = draw(rng, 1, 64)
    with (
        fake_server.serve(put=put, release=tensors.release, attend=tensors.attend) as address,
        Client(address).put(x, x) as kept,
        pytest.raises(SageError, match="no luck"),
    ):
        kept.attend(x)
