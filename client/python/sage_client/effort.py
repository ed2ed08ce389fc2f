"""How hard a request is tried: its deadline, retries and cancellation, shared by all its calls."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Callable, TypeVar

from .cancellation import Cancellation
from .errors import SageError, check_seconds

_FIRST_BACKOFF_SECONDS = 0.1

_log = logging.getLogger("sage_client")

T = TypeVar("T")
ServerT = TypeVar("ServerT")


class Effort:
    """One request's. Thread-safe.

    Args:
        timeout: seconds from now for all calls with their retries; None for no limit.
        retries: of each call.

    """

    def __init__(self, timeout: float | None, retries: int) -> None:
        check_seconds("timeout", timeout)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._retries = retries
        self.cancel = Cancellation()

    def remaining(self) -> float | None:
        """Seconds left, never negative; None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def persist(self, servers: Sequence[ServerT], call: Callable[[ServerT], T]) -> T:
        """Calls the first server, then, where that may help, the next ones, over and over."""
        for attempt in itertools.count():
            try:
                return call(servers[attempt % len(servers)])
            except SageError as error:
                delay = self._retry_delay(error, attempt, len(servers))
                if delay is None or self.cancel.wait(delay):
                    raise
                _log.info("trying again: %s", error)
        raise AssertionError("not reached")

    def _retry_delay(self, error: SageError, attempt: int, servers: int) -> float | None:
        """Seconds to wait before the next attempt; None if there is none."""
        if not error.worth_retrying or attempt >= self._retries:
            return None
        if attempt + 1 < servers:
            return 0.0  # another server has not been asked yet
        backoff: float = _FIRST_BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1)
        delay = max(error.retry_delay or 0.0, backoff)
        remaining = self.remaining()
        return delay if remaining is None or delay < remaining else None

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Runs calls at once; the first failure cancels the others and is raised."""
        if len(calls) == 1:
            return [calls[0]()]
        with ThreadPoolExecutor(len(calls)) as pool:
            futures = [pool.submit(call) for call in calls]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self.cancel.cancel()
                raise
        return [future.result() for future in futures]

    async def in_background(self, work: Callable[[], T]) -> T:
        """Runs work on the event loop's default executor; cancelling ends its calls."""
        try:
            return await asyncio.get_running_loop().run_in_executor(None, work)
        except asyncio.CancelledError:
            self.cancel.cancel()
            raise
