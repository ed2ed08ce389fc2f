"""A server that does what a test tells it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable

import grpc

from sage_client import wire


class Methods(grpc.GenericRpcHandler):
    """Attend and AttendStream on raw bytes."""

    def __init__(self, attend: Callable[..., Any] | None, stream: Callable[..., Any] | None):
        self._methods = {}
        if attend is not None:
            handler = grpc.unary_unary_rpc_method_handler(attend)
            self._methods["/sage.v1.Attention/Attend"] = handler
        if stream is not None:
            handler = grpc.stream_stream_rpc_method_handler(stream)
            self._methods["/sage.v1.Attention/AttendStream"] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


@contextmanager
def serve(
    attend: Callable[..., Any] | None = None, stream: Callable[..., Any] | None = None
) -> Iterator[str]:
    """Its address; the server is stopped at the end."""
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Methods(attend, stream),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
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
