"""What goes wrong, as exceptions with the server's code and details."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from . import wire

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Violation:
    """A field that is wrong, or a limit that was met, and why."""

    subject: str
    description: str


class SageError(Exception):
    """A request that failed.

    Attributes:
        code: the gRPC status code, for instance `grpc.StatusCode.RESOURCE_EXHAUSTED`.
        message: the server's text.
        violations: fields or limits named by the server.
        retry_delay: seconds after which the server expects to take the request, or None.
        server: which server said so; None where the request never left.

    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        violations: Sequence[Violation] = (),
        retry_delay: float | None = None,
        server: str | None = None,
    ) -> None:
        text = f"{code.name}: {message}"
        super().__init__(f"{text} (from {server})" if server else text)
        self.code = code
        self.message = message
        self.violations: tuple[Violation, ...] = tuple(violations)
        self.retry_delay = retry_delay
        self.server = server

    @property
    def worth_retrying(self) -> bool:
        """Whether the same request may succeed later, or on another server."""
        if self.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_delay is not None
        # gRPC says CANCELLED of calls that come while their server shuts down.
        return self.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class InvalidArgumentError(SageError, ValueError):
    """A request that is not valid, found by the client or by the server."""

    def __init__(
        self, message: str, violations: Sequence[Violation] = (), server: str | None = None
    ) -> None:
        super().__init__(
            grpc.StatusCode.INVALID_ARGUMENT, message, violations=violations, server=server
        )


class DeadlineExceededError(SageError, TimeoutError):
    """A call whose deadline cannot be, or was not, met; retries and waiting count towards it."""


def invalid(field: str, got: object, allowed: object) -> InvalidArgumentError:
    """A field that the client refuses to send."""
    description = f"got {got}, allowed {allowed}"
    return InvalidArgumentError(f"{field}: {description}", [Violation(field, description)])


def check_seconds(field: str, seconds: float | None) -> None:
    """InvalidArgumentError unless absent, or positive and finite."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise invalid(field, seconds, "a positive number of seconds, or None")


def broken_protocol(what: str, server: str) -> SageError:
    """An answer that does not keep to the contract."""
    return SageError(
        grpc.StatusCode.INTERNAL, f"the server broke the protocol: {what}", server=server
    )


def from_rpc(error: Exception, server: str) -> SageError:
    """A failed call, with the details that came in its trailing metadata."""
    if isinstance(error, grpc.FutureCancelledError):
        return SageError(grpc.StatusCode.CANCELLED, "ended by the caller", server=server)
    assert isinstance(error, grpc.Call)
    code, message = error.code(), error.details() or ""
    violations, retry_delay = _read_details(error)
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidArgumentError(message, violations, server)
    if code == grpc.StatusCode.UNAVAILABLE and "failed to connect" in message.lower():
        message = f"{message}; is sage-server running there?"
    kind = DeadlineExceededError if code == grpc.StatusCode.DEADLINE_EXCEEDED else SageError
    return kind(code, message, violations, retry_delay, server)


def _read_details(error: grpc.Call) -> tuple[Sequence[Violation], float | None]:
    violations = []
    retry_delay = None
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        for detail in wire.Status.FromString(value).details:
            kind = detail.type_url.rpartition("/")[2]
            if kind == "google.rpc.BadRequest":
                bad = wire.BadRequest.FromString(detail.value)
                violations += [Violation(v.field, v.description) for v in bad.field_violations]
            elif kind == "google.rpc.QuotaFailure":
                quota = wire.QuotaFailure.FromString(detail.value)
                violations += [Violation(v.subject, v.description) for v in quota.violations]
            elif kind == "google.rpc.RetryInfo":
                delay = wire.RetryInfo.FromString(detail.value).retry_delay
                retry_delay = delay.seconds + delay.nanos * 1e-9
    return violations, retry_delay
