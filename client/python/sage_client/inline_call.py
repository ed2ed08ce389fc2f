"""Small requests: one message each way."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from . import wire
from .cancellation import Cancellation
from .errors import broken_protocol, from_rpc
from .job import Job

_METHOD = "/sage.v1.Attention/Attend"


def attend_inline(
    channel: grpc.Channel, server: str, job: Job, timeout: float | None, cancel: Cancellation
) -> Any:
    """Sends the whole job as one message and writes its answer; the trailer."""
    payload = {o.field: o.all_bytes() for o in job.operands}
    request = wire.AttendRequest(header=job.header(), **payload)
    attend = channel.unary_unary(
        _METHOD,
        request_serializer=wire.AttendRequest.SerializeToString,
        response_deserializer=wire.AttendResponse.FromString,
    )
    call = attend.future(request, timeout=timeout)
    try:
        with cancel.covers(call):
            response = call.result()
    except (grpc.RpcError, grpc.FutureCancelledError) as error:
        raise from_rpc(error, server) from None
    finally:
        call.cancel()  # no effect on a call that has ended
    if job.out is not None:
        _take(response.out, job.out, "output", server)
    if job.lse is not None:
        _take(response.lse, job.lse, "lse", server)
    return response.trailer


def _take(data: bytes, target: np.ndarray[Any, Any], name: str, server: str) -> None:
    if len(data) != target.nbytes:
        raise broken_protocol(f"{name} of {len(data)} bytes, expected {target.nbytes}", server)
    target[...] = np.frombuffer(data, target.dtype).reshape(target.shape)
