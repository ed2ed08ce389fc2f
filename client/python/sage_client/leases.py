"""Leases of tensors, renewed in time by a thread for each server that keeps some.

Only what lives is renewed: the threads hold weak references. A forked child renews what it has put
itself; the rest is its parent's.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from . import tensor_calls
from .credentials import Server
from .effort import Effort
from .errors import SageError

_RELEASE_SECONDS = 5.0

_log = logging.getLogger("sage_client")


class Leased(Protocol):
    """Something with a lease."""

    renew_at: float  # by the monotonic clock

    def renew_in_time(self) -> None:
        """Renews it, and says by `renew_at` when to do so again. Raises nothing."""


class Renewer:
    """Of one server's leases. Thread-safe."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # References to what is kept, and handles to release. Its put() may be called by the garbage
        # collector, whatever the thread holds.
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        name = f"sage-leases-{server.address}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def keep(self, leased: Leased) -> None:
        """Renews its lease from now on, for as long as it lives. Twice is not an error."""
        self._inbox.put(weakref.ref(leased))

    def release(self, handle: Any) -> None:
        """Releases a tensor soon. May be called by a finaliser."""
        self._inbox.put(handle)

    def _run(self) -> None:
        kept: weakref.WeakSet[Leased] = weakref.WeakSet()
        while True:
            self._take_one(kept, _next(kept))
            _renew_due(kept)

    def _take_one(self, kept: weakref.WeakSet[Leased], until: float) -> None:
        """Handles the first of the inbox, if it comes by then."""
        timeout = None if until == math.inf else max(0.0, until - time.monotonic())
        try:
            item = self._inbox.get(timeout=timeout)
        except Empty:
            return
        if isinstance(item, weakref.ref):
            leased = item()
            if leased is not None:
                kept.add(leased)
            return
        try:
            tensor_calls.release(self._server, [item], Effort(_RELEASE_SECONDS, 0))
        except SageError as failure:  # the lease ends by itself
            _log.info("not released: %s", failure)


def _next(kept: weakref.WeakSet[Leased]) -> float:
    """When the first lease is to be renewed."""
    return min((leased.renew_at for leased in kept), default=math.inf)


def _renew_due(kept: weakref.WeakSet[Leased]) -> None:
    now = time.monotonic()
    for leased in [leased for leased in kept if leased.renew_at <= now]:
        leased.renew_in_time()


_lock = threading.Lock()
_renewers: dict[Server, Renewer] = {}  # guarded by _lock


def renewer(server: Server) -> Renewer:
    """The process's for a server."""
    with _lock:
        known = _renewers.get(server)
        if known is None:
            known = _renewers[server] = Renewer(server)
        return known


def _forget_in_child() -> None:
    global _lock, _renewers
    _lock = threading.Lock()  # its holder may not exist here
    _renewers = {}


os.register_at_fork(after_in_child=_forget_in_child)
