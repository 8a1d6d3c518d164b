"""The W3C trace context: which trace a piece of work belongs to, and below which span."""

from __future__ import annotations

import hashlib
import random
import re
from typing import NamedTuple

MAX_STATE_CHARACTERS = 512
"""What the standard asks everyone to pass on at least; a longer `tracestate` is left out."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_STATE_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MAX_STATE_MEMBERS = 32
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SAMPLED = 0x01


# Ids must differ, not be secret: the system's generator takes longer than all else that a span begins with. Each process has its own seed.
_DRAWN = random.Random()  # noqa: S311
_AT_A_TIME = 256


class _SpareIds:
    """Random hex digits, drawn for many spans at a time: that costs a call less. Any thread may take."""

    def __init__(self, digits: int) -> None:
        self._digits = digits
        self._spare: list[str] = []

    def take(self) -> str:
        try:
            return self._spare.pop()
        except IndexError:
            drawn, digits = _DRAWN.randbytes(self._digits // 2 * _AT_A_TIME).hex(), self._digits
            # Of two threads that draw at a time each keeps its own for all to take.
            self._spare += [drawn[start : start + digits] for start in range(digits, len(drawn), digits)]
            return drawn[:digits]


_SPANS = _SpareIds(16)


class TraceContext(NamedTuple):
    """Where a span stands. A tuple, as every call makes some: a frozen dataclass takes five times as long to make.

    Attributes:
        trace_id: 32 lower-case hex digits.
        span_id: 16 lower-case hex digits.
        is_sampled: its spans are written; decided once, where the trace began.
        state: `tracestate` as it came; other tracing systems keep theirs in it.
    """

    trace_id: str
    span_id: str
    is_sampled: bool = True
    state: str = ""

    @property
    def traceparent(self) -> str:
        """As the header has it."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"

    def at(self, span_id: str) -> TraceContext:
        """The same trace, at another span."""
        return TraceContext(self.trace_id, span_id, self.is_sampled, self.state)


def parse(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """What the two headers say; None when `traceparent` is none of the standard's. A wrong `tracestate` is left out."""
    # What may have blanks around it is a header's value, not ours to refuse for that.
    found = _PARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return TraceContext(trace_id=trace_id, span_id=span_id, is_sampled=bool(int(flags, 16) & _SAMPLED), state=_state(tracestate))


def stored(context: TraceContext | None) -> str:
    """One text that `of_stored` reads: what is kept with a task. Empty: no context."""
    if context is None:
        return ""
    return f"{context.traceparent} {context.state}" if context.state else context.traceparent


def of_stored(text: str) -> TraceContext | None:
    """The context of such a text; None for an empty one, and for one that is none."""
    if not text:
        return None
    traceparent, _, state = text.partition(" ")
    return parse(traceparent, state)


def new_roots(amount: int) -> list[TraceContext]:
    """Places where traces may begin, with random ids. Many at a time: one by one they cost several times as much."""
    drawn, starts = _DRAWN.randbytes(24 * amount).hex(), range(0, 48 * amount, 48)
    # An id that is all zero is none; that one is drawn is less likely than that this line is ever wrong.
    return [TraceContext(drawn[start : start + 32], drawn[start + 32 : start + 48]) for start in starts]


def new_span_id() -> str:
    """A random one."""
    return _SPANS.take()


def derived_span_id(trace_id: str, *parts: str | int) -> str:
    """The id that everyone who knows the same parts gives the same span, without telling each other."""
    digest = hashlib.sha256("\0".join((trace_id, *map(str, parts))).encode()).hexdigest()
    span_id = digest[:16]
    return span_id if span_id != _NO_SPAN else digest[16:32]


def attempt_span_id(trace_id: str, task_id: str, attempt: int) -> str:
    """Of an attempt: admission writes the span when it is over, the lane hangs its own below it before."""
    return derived_span_id(trace_id, task_id, attempt)


def _state(text: str) -> str:
    text = text.strip(" \t")
    if not text or len(text) > MAX_STATE_CHARACTERS:
        return ""
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    if len(members) > _MAX_STATE_MEMBERS or any(_STATE_MEMBER.fullmatch(member) is None for member in members):
        return ""
    return ",".join(members)
