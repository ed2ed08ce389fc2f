"""Calls of the Tensors service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from . import wire
from .channels import channel
from .credentials import Server
from .effort import Effort
from .errors import SageError, broken_protocol, check_seconds, from_rpc
from .job import Bits, Operand, as_bytes
from .memory import keep_freed_messages
from .tensors import DType

_SERVICE = "/sage.v1.Tensors/"
_CHUNK_BYTES = 1 << 20


def spec_of(role: int, shape: Sequence[int], layout: str, dtype: DType) -> Any:
    """A wire.TensorSpec of a q, k, v or output whose shape is [B, H, S, D] in the layout."""
    batch, heads, seqlen, head_dim = shape if layout == "HND" else (shape[i] for i in (0, 2, 1, 3))
    return wire.TensorSpec(
        role=role,
        dtype=dtype.wire,
        layout=wire.LAYOUTS[layout],
        batch=batch,
        num_heads=heads,
        seqlen=seqlen,
        head_dim=head_dim,
    )


def put(server: Server, spec: Any, key: bytes, operand: Operand | None, effort: Effort) -> Any:
    """Stores what `spec` says, with the operand's elements if it has any; a wire.PutResponse.

    What is sent again with its key is not stored twice.
    """
    keep_freed_messages()
    first = wire.PutRequest(spec=spec, idempotency_key=key).SerializeToString()

    def messages() -> Iterator[bytes]:
        yield first
        sent = 0
        for piece in operand.pieces() if operand is not None else ():
            for begin in range(0, len(piece), _CHUNK_BYTES):
                data = piece[begin : begin + _CHUNK_BYTES]
                chunk = {"tensor": spec.role, "offset": sent}
                sent += len(data)
                fields = wire.PutRequest(chunk=chunk).SerializeToString()
                yield wire.encode_frame(fields, data)

    def call(target: Server) -> Any:
        stub: Any = channel(target).stream_unary(
            _SERVICE + "Put", response_deserializer=wire.PutResponse.FromString
        )
        failure: list[SageError] = []
        running = stub.future(_until_failure(messages(), failure), timeout=effort.remaining())
        try:
            with effort.cancel.covers(running):
                return running.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            raise (failure[0] if failure else from_rpc(error, target.address)) from None
        finally:
            running.cancel()  # no effect on a call that has ended

    return effort.persist([server], call)


def _until_failure(messages: Iterator[bytes], failure: list[SageError]) -> Iterator[bytes]:
    """The messages up to an element that cannot be converted; gRPC would swallow the error."""
    try:
        yield from messages
    except SageError as error:
        failure.append(error)


def get(server: Server, handle: Any, target: Bits, effort: Effort) -> None:
    """Fetches a tensor's elements into a contiguous array of their size."""
    keep_freed_messages()
    memory = as_bytes(target)
    request = wire.GetRequest(handle=handle).SerializeToString()

    def call(source: Server) -> None:
        stub: Any = channel(source).unary_stream(_SERVICE + "Get")
        running = stub(request, timeout=effort.remaining())
        received = 0
        try:
            with effort.cancel.covers(running):
                for frame in running:
                    fields, data = wire.split_frame(frame)
                    message = wire.GetResponse.FromString(fields)
                    end = received + len(data)
                    if message.chunk.offset != received or end > len(memory):
                        raise broken_protocol(f"{len(data)} bytes at {received}", source.address)
                    memory[received:end] = data
                    received = end
        except grpc.RpcError as error:
            raise from_rpc(error, source.address) from None
        except (ValueError, DecodeError) as error:
            what = f"a message that is not protobuf: {error}"
            raise broken_protocol(what, source.address) from None
        finally:
            running.cancel()  # no effect on a call that has ended
        if received != len(memory):
            what = f"{received} bytes, expected {len(memory)}"
            raise broken_protocol(what, source.address)

    effort.persist([server], call)


def renew(server: Server, handles: Sequence[Any], lease: Any, effort: Effort) -> float:
    """Extends leases by a wire.Duration, or None; the seconds granted."""
    request = wire.RenewRequest(handles=handles, lease=lease)
    return seconds(_control("Renew", server, request, wire.RenewResponse, effort).lease)


def release(server: Server, handles: Sequence[Any], effort: Effort) -> None:
    """Frees tensors."""
    request = wire.ReleaseRequest(handles=handles)
    _control("Release", server, request, wire.ReleaseResponse, effort)


def seconds(duration: Any) -> float:
    """Of a google.protobuf.Duration."""
    return float(duration.seconds + duration.nanos * 1e-9)


def _control(method: str, server: Server, request: Any, response: Any, effort: Effort) -> Any:
    """A call of one small message each way."""

    def call(target: Server) -> Any:
        stub = channel(target).unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return stub(request, timeout=effort.remaining())
        except grpc.RpcError as error:
            raise from_rpc(error, target.address) from None

    return effort.persist([server], call)


def duration(seconds: float | None) -> Any:
    """A lease as a google.protobuf.Duration; None for the server's default."""
    check_seconds("lease", seconds)
    if seconds is None:
        return None
    return wire.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
