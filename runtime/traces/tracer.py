"""Spans, and the port through which a process writes them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol

from runtime.traces.context import TraceContext

Value = str | int | float | bool
"""Of an attribute."""


class Kind(IntEnum):
    """Of a span; numbered as in OTLP."""

    INTERNAL = 1
    SERVER = 2


class Span(NamedTuple):
    """Something that was done, told when it is over. A tuple for the same reason as its context.

    Attributes:
        context: its own place: trace and span id.
        parent_id: span id of what it is a part of; empty: the trace begins with it.
        began_ns, ended_ns: nanoseconds since 1970.
        attributes: never a prompt, an image, a key, a token or an address; `names` has every name.
        is_failed: it did not do what it should.
    """

    name: str
    context: TraceContext
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value] = MappingProxyType({})
    kind: Kind = Kind.INTERNAL
    is_failed: bool = False


class Tracer(Protocol):
    """Where the spans of a process go. Any thread may call it."""

    @property
    def is_on(self) -> bool:
        """Somebody wants spans. Who asks once, at the start, need not make any."""
        ...

    def begin(self, parent: TraceContext | None) -> TraceContext:
        """A new span below this one, in its trace and with its sampling decision; below none, a new trace."""
        ...

    def write(self, span: Span) -> None:
        """Takes a span of a sampled trace; passes over others. Quick, never waits and never raises."""
        ...


class _Silent:
    """Writes nothing."""

    @property
    def is_on(self) -> bool:
        """Nobody wants spans."""
        return False

    def begin(self, parent: TraceContext | None) -> TraceContext:
        """The parent itself: no span comes between."""
        return parent or _NOWHERE

    def write(self, span: Span) -> None:
        """Nothing."""


_NOWHERE = TraceContext(trace_id="f" * 32, span_id="f" * 16, is_sampled=False)

SILENT: Tracer = _Silent()
