"""One pool of gRPC channels a process.

Each (server, index) is a connection of its own. A forked child starts with an empty pool: it leaves
its parent's connections alone and makes its own.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any, NamedTuple

import grpc

from .credentials import Credentials, Server
from .errors import InvalidArgumentError

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),  # gRPC's own would have to keep all data sent so far
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_Key = tuple[Server, int]

_lock = threading.Lock()
# Guarded by _lock. With the version of the certificates that a channel was made with.
_channels: dict[_Key, tuple[tuple[int, ...], grpc.Channel]] = {}


def channel(server: Server, index: int = 0) -> grpc.Channel:
    """The process's channel number `index` to a server. Thread-safe; the pool keeps it.

    Where certificates have changed it is a new one; calls of the old one go on.
    """
    with _lock:
        key = (server, index)
        known = _channels.get(key)
        try:
            version = server.credentials.version()
            if known is None or known[0] != version:
                known = _channels[key] = (version, _make(server))
        except InvalidArgumentError:
            if known is None:
                raise
            # Files that are gone for the moment change nothing.
        return known[1]


def _make(server: Server) -> grpc.Channel:
    credentials = server.credentials
    options = list(_OPTIONS)
    certificates = credentials.channel_credentials()
    if certificates is not None:
        made = grpc.secure_channel(server.address, certificates, options=options)
    else:
        if credentials.token or credentials.token_file:
            options.append(("grpc.enable_http_proxy", 0))  # which may be elsewhere
        made = grpc.insecure_channel(server.address, options=options)
    if credentials.token or credentials.token_file:
        made = grpc.intercept_channel(made, _TokenInterceptor(credentials))
    return made


class _CallDetails(NamedTuple):
    """What a call is made with; see grpc.ClientCallDetails."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to every call. gRPC's own way refuses what is not encrypted, loopback too."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._token = credentials.read_token()

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)

    def _with_token(self, call: Any) -> _CallDetails:
        with suppress(InvalidArgumentError):  # a file that has become bad changes nothing
            self._token = self._credentials.read_token()
        return _CallDetails(
            call.method,
            call.timeout,
            [*(call.metadata or ()), ("authorization", f"Bearer {self._token}")],
            call.credentials,
            call.wait_for_ready,
            call.compression,
        )


def _forget_in_child() -> None:
    global _lock, _channels
    _lock = threading.Lock()  # its holder may not exist here
    _channels = {}


os.register_at_fork(after_in_child=_forget_in_child)
