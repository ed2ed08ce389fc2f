"""Ending several running calls at once, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Cancellable(Protocol):
    """A call that can be ended early."""

    def cancel(self) -> object:
        """Asks for an early end."""


class Cancellation:
    """A switch that cancels the calls registered with it, now and later. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Cancellable] = set()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Cancels what runs, and what will be registered."""
        with self._lock:
            self._cancelled.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def wait(self, seconds: float) -> bool:
        """Waits, no longer than until cancelled; whether it was."""
        return self._cancelled.wait(seconds)

    @contextmanager
    def covers(self, call: Cancellable) -> Iterator[None]:
        """Registers a call for as long as it runs."""
        with self._lock:
            self._calls.add(call)
            cancelled = self._cancelled.is_set()
        if cancelled:
            call.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)
