"""The span that is open where the code runs: who serves a call opens it, who knows something of the call adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from runtime.traces.context import TraceContext
from runtime.traces.tracer import Value


class OpenSpan(NamedTuple):
    """A span that is not over. A tuple for the same reason as its context.

    Attributes:
        context: its own place.
        attributes: what is known of it so far; added to until it is over.
    """

    context: TraceContext
    attributes: dict[str, Value]


_CURRENT: ContextVar[OpenSpan | None] = ContextVar("warmlane-span", default=None)
# Of work that is for a task and has no span of its own here.
_LOGGED: ContextVar[str] = ContextVar("warmlane-trace", default="")


def current() -> TraceContext | None:
    """Of the call that is being served; None: it has no trace, or traces are off."""
    opened = _CURRENT.get()
    return None if opened is None else opened.context


def current_trace_id() -> str:
    """For log lines: of the call that is being served, or of the task that is being worked on; empty: neither has a trace."""
    opened = _CURRENT.get()
    return _LOGGED.get() if opened is None else opened.context.trace_id


def annotate(name: str, value: Value) -> None:
    """Adds an attribute to the span of the call that is being served, if it has one."""
    opened = _CURRENT.get()
    if opened is not None:
        opened.attributes[name] = value


def enter(opened: OpenSpan) -> None:
    """Makes it the current span of this asyncio task, for good: for a task that serves one call and ends with it."""
    _CURRENT.set(opened)


@contextmanager
def entered(opened: OpenSpan) -> Iterator[None]:
    """It is the current span within the block."""
    token = _CURRENT.set(opened)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def logged(trace_id: str) -> Iterator[None]:
    """Log lines within the block have this trace; empty: none."""
    token = _LOGGED.set(trace_id)
    try:
        yield
    finally:
        _LOGGED.reset(token)
