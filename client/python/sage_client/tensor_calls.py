"""Calls of the Tensors service."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from . import wire
from .channels import channel
from .credentials import Server
from .effort import Effort
from .errors import SageError, from_rpc, invalid
from .job import Operand, as_hnd

_SERVICE = "/sage.v1.Tensors/"
_CHUNK_BYTES = 1 << 20
_ROLES = {"k": wire.ROLE_K, "v": wire.ROLE_V}


def put(
    server: Server,
    operand: Operand,
    group: str,
    precisions: Sequence[str],
    lease: float | None,
    effort: Effort,
) -> Any:
    """Stores k or v at a server; a wire.PutResponse.

    Tensors of one group are on one device. `precisions` are those that k is kept prepared for.
    """
    batch, heads, seqlen, head_dim = as_hnd(operand.bits, operand.layout).shape
    spec = {
        "role": _ROLES[operand.field],
        "dtype": operand.wire_dtype.wire,
        "layout": wire.LAYOUTS[operand.layout],
        "batch": batch,
        "num_heads": heads,
        "seqlen": seqlen,
        "head_dim": head_dim,
        "lease": _duration(lease),
        "placement_group": group,
    }
    if operand.field == "k":
        spec["precisions"] = [wire.PRECISIONS[precision] for precision in precisions]
    # The key is for retries: what is sent again is not stored twice.
    first = wire.PutRequest(spec=spec, idempotency_key=uuid.uuid4().bytes).SerializeToString()

    def messages() -> Iterator[bytes]:
        yield first
        sent = 0
        for piece in operand.pieces():
            for begin in range(0, len(piece), _CHUNK_BYTES):
                data = piece[begin : begin + _CHUNK_BYTES]
                chunk = {"tensor": _ROLES[operand.field], "offset": sent}
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


def renew(server: Server, handles: Sequence[Any], lease: float | None, effort: Effort) -> float:
    """Extends leases; the seconds granted."""
    request = wire.RenewRequest(handles=handles, lease=_duration(lease))
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


def _duration(seconds: float | None) -> Any:
    if seconds is None:
        return None
    if not seconds > 0:
        raise invalid("lease", seconds, "a positive number of seconds")
    return {"seconds": int(seconds), "nanos": int(seconds % 1 * 1e9)}
