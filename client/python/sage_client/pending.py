"""One list of arguments for a call that may be waited for in two ways."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, Callable

from .attend import Attention
from .effort import Effort

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")


@dataclass(frozen=True)
class Pending:
    """An attention whose arguments are checked, and that has not been sent."""

    work: Callable[[], Attention]
    effort: Effort


def blocking(prepare: Callable[P, Pending]) -> Callable[P, Attention]:
    """The method `attend`: does what was prepared, and returns its answer."""

    @wraps(prepare, assigned=("__module__", "__doc__"))
    def attend(*args: P.args, **kwargs: P.kwargs) -> Attention:
        return prepare(*args, **kwargs).work()

    _show(attend, prepare)
    return attend


def awaitable(prepare: Callable[P, Pending]) -> Callable[P, Coroutine[Any, Any, Attention]]:
    """The method `attend_async`: `attend` as a coroutine."""

    @wraps(prepare, assigned=("__module__", "__doc__"))
    async def attend_async(*args: P.args, **kwargs: P.kwargs) -> Attention:
        pending = prepare(*args, **kwargs)
        return await pending.effort.in_background(pending.work)

    attend_async.__doc__ = (
        "`attend` as a coroutine, on the loop's default executor; cancelling it ends the call."
    )
    _show(attend_async, prepare)
    return attend_async


def _show(method: Any, prepare: Callable[..., Pending]) -> None:
    """Gives help() the arguments of `prepare` with the method's own result."""
    method.__signature__ = signature(prepare).replace(return_annotation="Attention")
