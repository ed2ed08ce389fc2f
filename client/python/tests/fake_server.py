"""A server that does what a test tells it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable

import grpc

from sage_client import channels, wire

_METHODS = {
    "attend": ("/sage.v1.Attention/Attend", grpc.unary_unary_rpc_method_handler),
    "stream": ("/sage.v1.Attention/AttendStream", grpc.stream_stream_rpc_method_handler),
    "put": ("/sage.v1.Tensors/Put", grpc.stream_unary_rpc_method_handler),
    "get": ("/sage.v1.Tensors/Get", grpc.unary_stream_rpc_method_handler),
    "renew": ("/sage.v1.Tensors/Renew", grpc.unary_unary_rpc_method_handler),
    "release": ("/sage.v1.Tensors/Release", grpc.unary_unary_rpc_method_handler),
}


class Methods(grpc.GenericRpcHandler):
    """Methods on raw bytes."""

    def __init__(self, behaviours: dict[str, Callable[..., Any]]) -> None:
        self._handlers = {
            _METHODS[name][0]: _METHODS[name][1](behaviour)
            for name, behaviour in behaviours.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


@contextmanager
def serve(**behaviours: Callable[..., Any]) -> Iterator[str]:
    """The address of a server with these methods, stopped at the end."""
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Methods(behaviours),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    # An earlier server may have had the port; what is left of its connections waits to try again.
    for key in [key for key in channels._channels if key[0].address == address]:
        del channels._channels[key]
    server.start()
    yield address
    server.stop(None).wait()


def busy(context: grpc.ServicerContext, retry_seconds: float) -> None:
    """Refuses with RESOURCE_EXHAUSTED and a time to come back."""
    retry = wire.RetryInfo(retry_delay={"nanos": round(retry_seconds * 1e9)})
    status = wire.Status(code=8, message="full")
    detail = status.details.add()
    detail.type_url = "type.googleapis.com/google.rpc.RetryInfo"
    detail.value = retry.SerializeToString()
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
