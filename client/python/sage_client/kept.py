"""One tensor at one server, which stays there for as long as it is wanted here."""

from __future__ import annotations

import logging
import math
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import grpc

from . import leases, tensor_calls, wire
from .credentials import Server
from .effort import Effort
from .errors import DeadlineExceededError, SageError
from .job import Operand

# Between attempts to renew while a server does not answer, and between renewals of short leases.
_PAUSE_SECONDS = 0.2
_RENEWAL_SECONDS = 5.0
_PUT_SECONDS = 300.0

_log = logging.getLogger("sage_client")


class KeptTensor:
    """A tensor that is put when this is made, and released when nothing refers to this.

    Meanwhile its lease is renewed, and where the server no longer has it, as after a restart, it is
    put again from the caller's memory. Thread-safe.

    Attributes:
        server: which one.
        lease_seconds: granted last.
        renew_at: when to renew, by the monotonic clock; infinite for never.

    """

    def __init__(
        self,
        server: Server,
        spec: Any,  # wire.TensorSpec, without a lease
        operand: Operand | None,  # its elements, if it has any
        lease: Any,  # wire.Duration; None for the server's default
        effort: Effort,
    ) -> None:
        self.server = server
        self._spec = spec
        self._operand = operand
        self._lease = lease
        self.renew_at = math.inf
        self._key = uuid.uuid4().bytes  # what is put with it again is not stored twice
        self._renewer = leases.renewer(server)
        self._lock = Lock()  # held while it is put or released
        self._released = False  # guarded by _lock
        self._dropped: weakref.finalize[Any, KeptTensor] | None = None  # the same
        self._put(effort)

    @property
    def handle(self) -> Any:
        """What stands for it at the server now; another object after each put."""
        return self._handle

    def restore(self, lost: Any, effort: Effort) -> bool:
        """Puts it again, unless that was done since `lost` was its handle; False if released.

        The contents of an output begin anew as zeros.
        """
        with self._exclusive(effort):
            if self._released:
                return False
            if self._handle is lost:
                self._put(effort)
                _log.info("put again at %s", self.server.address)
            return True

    def extend(self, lease: Any, effort: Effort) -> None:
        """Makes this its lease, from now on; NOT_FOUND if it is gone for good."""
        self._lease = lease
        self._renew(effort, effort)

    def renew_in_time(self) -> None:
        """What is done when `renew_at` has come."""
        try:
            self._renew(Effort(_RENEWAL_SECONDS, 0), Effort(_PUT_SECONDS, 0))
        except SageError as error:
            if self.renew_at < math.inf:
                _log.info("lease not renewed: %s", error)
                self.renew_at = time.monotonic() + _PAUSE_SECONDS

    def release(self, effort: Effort) -> None:
        """Frees it at the server, and leaves it so."""
        with self._exclusive(effort):
            self._released = True
            self.renew_at = math.inf
            self._forget_finaliser()
            tensor_calls.release(self.server, [self._handle], effort)

    @contextmanager
    def _exclusive(self, effort: Effort) -> Iterator[None]:
        remaining = effort.remaining()
        if not self._lock.acquire(timeout=-1 if remaining is None else remaining):
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            message = "the time ended while a tensor was put again"
            raise DeadlineExceededError(code, message, server=self.server.address)
        try:
            yield
        finally:
            self._lock.release()

    def _put(self, effort: Effort) -> None:
        spec = wire.TensorSpec()
        spec.CopyFrom(self._spec)
        if self._lease is not None:
            spec.lease.CopyFrom(self._lease)
        answer = tensor_calls.put(self.server, spec, self._key, self._operand, effort)
        self._handle = answer.handle
        self._take_lease(tensor_calls.seconds(answer.lease))
        self._forget_finaliser()
        self._dropped = weakref.finalize(self, self._renewer.release, answer.handle)
        self._dropped.atexit = False
        self._renewer.keep(self)

    def _forget_finaliser(self) -> None:
        if self._dropped is not None:
            self._dropped.detach()

    def _renew(self, effort: Effort, put_effort: Effort) -> None:
        handle = self._handle
        try:
            granted = tensor_calls.renew(self.server, [handle], self._lease, effort)
        except SageError as error:
            if error.code != grpc.StatusCode.NOT_FOUND:
                raise
            # What was written to an output is lost: whoever asks for it is to be told so.
            is_output = self._spec.role == wire.ROLE_OUTPUT
            if is_output or not self.restore(handle, put_effort):
                self.renew_at = math.inf
                raise
        else:
            self._take_lease(granted)

    def _take_lease(self, seconds: float) -> None:
        self.lease_seconds = seconds
        self.renew_at = time.monotonic() + max(seconds / 2, _PAUSE_SECONDS)
