"""Answers that break the protocol are refused; frames are protobuf."""

from __future__ import annotations

from typing import Any

import fake_server
import grpc
import numpy as np
import pytest

from sage_client import Client, SageError, wire

SHAPE = (1, 2, 8192, 64)  # streamed
UNIT = {"kv_head_count": 2, "q_count": 8192}
PLAN = {"units": [UNIT], "window_bytes": 1 << 24, "max_chunk_bytes": 1 << 20}
OUT_BYTES = 2 * 8192 * 64 * 2


def accepted(**changes: Any) -> bytes:
    message = wire.AttendStreamResponse(accepted={**PLAN, **changes})
    return message.SerializeToString()  # type: ignore[no-any-return]


def chunk(size: int, **changes: Any) -> bytes:
    fields = wire.AttendStreamResponse(chunk={"tensor": wire.ROLE_OUTPUT, **changes})
    return wire.encode_frame(fields.SerializeToString(), bytes(size))


TRAILER = wire.AttendStreamResponse(trailer={"request_id": "x"}).SerializeToString()
ANSWER = [chunk(1 << 20), chunk(1 << 20, offset=1 << 20)]

BROKEN = {
    "not protobuf": [b"\xff"],
    "a field past the end": [b"\x0a\x7f"],
    "no plan": [TRAILER],
    "neither chunk nor trailer": [accepted(), accepted()],
    "does not cover": [accepted(units=[{**UNIT, "q_count": 128}])],
    "covers twice": [accepted(units=[UNIT, {**UNIT, "kv_unit": 0}])],
    "unit outside": [accepted(units=[{**UNIT, "kv_head_count": 3}])],
    "uneven cut": [accepted(units=[{**UNIT, "q_count": 100}])],
    "keys of a later unit": [accepted(units=[{**UNIT, "kv_unit": 1}])],
    "tiny chunks": [accepted(max_chunk_bytes=8)],
    "a unit that does not fit the window": [accepted(window_bytes=1 << 20)],
    "chunk of no unit": [accepted(), chunk(16, unit=1)],
    "chunk of another tensor": [accepted(), chunk(16, tensor=wire.ROLE_LSE)],
    "gap": [accepted(), chunk(16, offset=16)],
    "too long": [accepted(), *ANSWER, chunk(16, offset=OUT_BYTES)],
    "no trailer": [accepted(), *ANSWER],
    "incomplete": [accepted(), ANSWER[0], TRAILER],
    "after the trailer": [accepted(), *ANSWER, TRAILER, TRAILER],
}


def answering(messages: list[bytes]) -> Any:
    def stream(requests: Any, context: grpc.ServicerContext) -> Any:
        yield from messages

    return stream


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers(name: str) -> None:
    q = np.zeros(SHAPE, np.float16)
    with (
        fake_server.serve(stream=answering(BROKEN[name])) as address,
        pytest.raises(SageError, match="the server broke the protocol") as caught,
    ):
        Client(address).attend(q, q, q, timeout=60)
    assert caught.value.code == grpc.StatusCode.INTERNAL


def test_a_good_answer_is_taken() -> None:
    q = np.ones(SHAPE, np.float16)
    with fake_server.serve(stream=answering([accepted(), *ANSWER, TRAILER])) as address:
        assert (Client(address).attend(q, q, q, timeout=60).out == 0).all()


@pytest.mark.parametrize("field", ["out", "lse"])
def test_inline_answers_of_a_wrong_size(field: str) -> None:
    sizes = {"out": 64 * 64 * 2, "lse": 64 * 4}
    sizes[field] -= 2
    answer = wire.AttendResponse(**{name: bytes(size) for name, size in sizes.items()})
    q = np.zeros((1, 1, 64, 64), np.float16)
    with (
        fake_server.serve(attend=lambda request, context: answer.SerializeToString()) as address,
        pytest.raises(SageError, match=r"bytes, expected \d+"),
    ):
        Client(address).attend(q, q, q, return_lse=True)


def test_frames_are_protobuf(rng: np.random.Generator) -> None:
    for size in (0, 1, 127, 128, 70_000):
        data = rng.bytes(size)
        message = wire.AttendStreamRequest(chunk={"unit": 300, "offset": 1 << 40})
        frame = wire.encode_frame(message.SerializeToString(), memoryview(data))
        parsed = wire.AttendStreamRequest.FromString(frame)
        assert parsed.data == data
        fields, view = wire.split_frame(frame)
        assert wire.AttendStreamRequest.FromString(fields) == message
        assert bytes(view) == data


def test_frames_take_any_order_and_unknown_fields() -> None:
    known = wire.AttendStreamRequest(chunk={"unit": 3}).SerializeToString()
    data = b"\x7a\x03abc"
    unknown = b"\xa0\x06\x96\x01" + b"\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4)
    fields, view = wire.split_frame(data + unknown + known)
    assert wire.AttendStreamRequest.FromString(fields).chunk.unit == 3
    assert bytes(view) == b"abc"


@pytest.mark.parametrize("frame", [b"\x7a", b"\x7a\x05abc", b"\x7a\xff", b"\x7b", b"\x80" * 12])
def test_frames_that_are_not_protobuf(frame: bytes) -> None:
    with pytest.raises(ValueError, match=r"field|varint|wire type"):
        wire.split_frame(frame)
