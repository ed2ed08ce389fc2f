"""Requests of any size: a stream of chunks up, and of finished units down.

Two threads work on one call: gRPC's sender asks `_messages` for the next message, while the
caller's thread reads answers. `_condition` guards what they share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from . import wire
from .cancellation import Cancellation
from .errors import SageError, broken_protocol, from_rpc
from .job import Bits, Job, Operand, as_bytes, select
from .memory import keep_freed_messages
from .plan import Plan, Unit, check_plan
from .unused import find_unused

_METHOD = "/sage.v1.Attention/AttendStream"
_CHUNK_BYTES = 1 << 20


def attend_stream(
    channel: grpc.Channel, server: str, job: Job, timeout: float | None, cancel: Cancellation
) -> Any:
    """Streams the job and writes its answer; the trailer."""
    keep_freed_messages()
    return _StreamCall(server, job).run(channel, timeout, cancel)


class _Answer:
    """A piece of the output or of lse, on its way in."""

    def __init__(self, target: Bits) -> None:
        self._target = target
        contiguous = target.flags.c_contiguous
        self._packed = target if contiguous else np.empty(target.shape, target.dtype)
        self._bytes = as_bytes(self._packed)
        self._received = 0

    @property
    def complete(self) -> bool:
        return self._received == len(self._bytes)

    def take(self, offset: int, data: memoryview) -> bool:
        """Writes the next bytes; False if they are not the next ones, or too many."""
        end = offset + len(data)
        if offset != self._received or end > len(self._bytes):
            return False
        self._bytes[offset:end] = data
        self._received = end
        if self.complete and self._packed is not self._target:
            self._target[...] = self._packed
        return True


class _UnitProgress:
    """What of a unit was sent, and what came back."""

    def __init__(self, job: Job, unit: Unit) -> None:
        self.in_window = 0  # bytes that were sent, and those that need not be
        self.answered = False
        self.answers = {}
        if job.out is not None:
            out = select(job.out, job.problem.layout, unit.batch, unit.heads_q, unit.rows)
            self.answers[wire.ROLE_OUTPUT] = _Answer(out)
        if job.lse is not None:
            lse = job.lse[unit.batch, unit.heads_q, unit.rows]
            self.answers[wire.ROLE_LSE] = _Answer(lse)
        if not self.answers:  # an empty chunk says that the unit is done
            self.answers[wire.ROLE_OUTPUT] = _Answer(np.empty(0, np.uint8))


class _StreamCall:
    def __init__(self, server: str, job: Job) -> None:
        self._server = server
        self._job = job
        self._unused = find_unused(job)
        self._condition = threading.Condition()
        self._plan: Plan | None = None
        self._progress: list[_UnitProgress] = []
        self._in_window = 0  # bytes sent of units not wholly answered
        self._over = False
        self._failure: BaseException | None = None  # of the sender

    def run(self, channel: grpc.Channel, timeout: float | None, cancel: Cancellation) -> Any:
        # Without serialisers, messages are bytes: frames are made and taken apart here, where the
        # payload need not be copied into messages and out of them.
        stream: Any = channel.stream_stream(_METHOD)
        call = stream(self._messages(), timeout=timeout)
        trailer = None
        try:
            with cancel.covers(call):
                for frame in call:
                    if trailer is not None:
                        raise self._broken("a message after the trailer")
                    trailer = self._handle(frame)
                    if self._failure is not None:
                        break
        except grpc.RpcError as error:
            if self._failure is None:
                raise from_rpc(error, self._server) from None
        finally:
            with self._condition:
                self._over = True
                self._condition.notify_all()
            call.cancel()  # no effect on a call that has ended
        if self._failure is not None:
            raise self._failure
        if trailer is None or not all(unit.answered for unit in self._progress):
            raise self._broken("the stream ended before the whole answer was there")
        return trailer

    # --- sending, on gRPC's thread ---

    def _messages(self) -> Iterator[bytes]:
        header = self._job.header()
        header.omit_unused_kv = self._unused is not None
        yield wire.AttendStreamRequest(header=header).SerializeToString()
        try:
            plan = self._wait_for_plan()
            if plan is not None:
                for index, unit in enumerate(plan.units):
                    yield from self._unit_messages(plan, index, unit)
        except SageError as error:  # an element that cannot be converted
            with self._condition:
                self._failure = error

    def _wait_for_plan(self) -> Plan | None:
        with self._condition:
            self._condition.wait_for(lambda: self._plan is not None or self._over)
            return self._plan

    def _unit_messages(self, plan: Plan, index: int, unit: Unit) -> Iterator[bytes]:
        job, progress = self._job, self._progress[index]
        operands: list[tuple[int, Operand, Bits | None]] = [(wire.ROLE_Q, job.q, None)]
        omitted = 0  # bytes that count as sent with the unit's first one
        if unit.carries_kv:
            for role, operand in ((wire.ROLE_K, job.k), (wire.ROLE_V, job.v)):
                keys = None
                if plan.omits_unused_kv and self._unused is not None:
                    keys = self._unused.keys_of(operand, unit)
                if keys is not None:
                    rows = job.problem.seqlen_k - len(keys)
                    omitted += rows * operand.row_bytes(unit.heads_kv)
                operands.append((role, operand, keys))
        for role, operand, keys in operands:
            payload = operand.payload(unit, keys)
            for offset in range(0, len(payload), plan.chunk_bytes):
                data = payload[offset : offset + plan.chunk_bytes]
                if not self._enter_window(plan, progress, omitted + len(data)):
                    return
                omitted = 0
                chunk = {"tensor": role, "unit": index, "offset": offset}
                fields = wire.AttendStreamRequest(chunk=chunk).SerializeToString()
                yield wire.encode_frame(fields, data)

    def _enter_window(self, plan: Plan, progress: _UnitProgress, size: int) -> bool:
        """Waits until `size` more bytes may be sent; False once the call is over."""
        if progress.in_window + size > plan.window_bytes:
            raise self._broken("a unit of its plan does not fit its window")
        with self._condition:
            self._condition.wait_for(
                lambda: self._over or self._in_window + size <= plan.window_bytes
            )
            self._in_window += size
            progress.in_window += size
            return not self._over

    # --- receiving, on the caller's thread ---

    def _handle(self, frame: bytes) -> Any:
        """Takes one message; the trailer if it is that."""
        try:
            fields, data = wire.split_frame(frame)
            message = wire.AttendStreamResponse.FromString(fields)
        except (ValueError, DecodeError) as error:
            raise self._broken(f"a message that is not protobuf: {error}") from None
        if self._plan is None:
            if not message.HasField("accepted"):
                raise self._broken("no plan in the first message")
            self._take_plan(message.accepted)
        elif message.HasField("trailer"):
            return message.trailer
        elif message.HasField("chunk"):
            self._take_chunk(message.chunk, data)
        else:
            raise self._broken("a message that is neither chunk nor trailer")
        return None

    def _take_plan(self, accepted: Any) -> None:
        plan = check_plan(self._job.problem, accepted, _CHUNK_BYTES, self._server)
        progress = [_UnitProgress(self._job, unit) for unit in plan.units]
        with self._condition:
            self._plan, self._progress = plan, progress
            self._condition.notify_all()

    def _take_chunk(self, chunk: Any, data: memoryview) -> None:
        unit = self._progress[chunk.unit] if chunk.unit < len(self._progress) else None
        answer = unit.answers.get(chunk.tensor) if unit is not None else None
        if unit is None or answer is None or unit.answered or not answer.take(chunk.offset, data):
            raise self._broken(
                f"{len(data)} bytes at {chunk.offset} of tensor {chunk.tensor}, unit {chunk.unit}"
            )
        if all(answer.complete for answer in unit.answers.values()):
            unit.answered = True
            with self._condition:
                self._in_window -= unit.in_window
                self._condition.notify_all()

    def _broken(self, what: str) -> SageError:
        return broken_protocol(what, self._server)
