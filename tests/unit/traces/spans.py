"""Spans and tracers for tests."""

from __future__ import annotations

from runtime.traces.context import TraceContext
from runtime.traces.process import WritingTracer
from runtime.traces.tracer import Span

TRACE = "0af7651916cd43dd8448eb211c80319c"
CONTEXT = TraceContext(trace_id=TRACE, span_id="b7ad6b7169203331", state="vendor=opaque")


class Kept(WritingTracer):
    """A tracer that keeps what is written.

    Attributes:
        spans: in their order.
    """

    def __init__(self, *, sample_ratio: float = 1.0) -> None:
        """Nothing is written yet."""
        self.spans: list[Span] = []
        super().__init__(self.spans.append, sample_ratio=sample_ratio)

    def names(self) -> list[str]:
        """Of the spans."""
        return [span.name for span in self.spans]

    def one(self, name: str) -> Span:
        """The only one of this name."""
        [span] = [span for span in self.spans if span.name == name]
        return span


def make_span(number: int = 1, **attributes: str | int | float | bool) -> Span:
    """A span that took a microsecond."""
    context = CONTEXT.at(f"{number:016x}")
    return Span(
        name=f"span {number}", context=context, parent_id=CONTEXT.span_id, began_ns=number * 1000, ended_ns=number * 1000 + 1000,
        attributes=attributes,
    )  # fmt: skip
