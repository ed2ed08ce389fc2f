"""One pool of gRPC channels a process.

Each (server, index) is a connection of its own. A forked child starts with an empty pool: it leaves
its parent's connections alone and makes its own.
"""

from __future__ import annotations

import os
import threading

import grpc

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),  # gRPC's own would have to keep all data sent so far
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

_lock = threading.Lock()
_channels: dict[tuple[str, int], grpc.Channel] = {}  # guarded by _lock


def channel(server: str, index: int = 0) -> grpc.Channel:
    """The process's channel number `index` to a server. Thread-safe; the pool keeps it."""
    with _lock:
        key = (server, index)
        if key not in _channels:
            _channels[key] = grpc.insecure_channel(server, options=_OPTIONS)
        return _channels[key]


def _forget_in_child() -> None:
    global _lock, _channels
    _lock = threading.Lock()  # its holder may not exist here
    _channels = {}


os.register_at_fork(after_in_child=_forget_in_child)
