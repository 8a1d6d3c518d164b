"""The tracer of a process, from its settings: silent and free, or one that sends what is written to a collector."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from runtime.traces.context import TraceContext, new_roots, new_span_id
from runtime.traces.outbox import Outbox
from runtime.traces.tracer import SILENT, Span, Tracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.traces.otlp import Collector
    from runtime.traces.outbox import OutboxLimits
    from runtime.traces.settings import TraceSettings

CLOSE_S = 2.0
"""A graceful stop waits so long for what is not sent yet."""

_SHARES = 2**56
_ROOTS_AT_A_TIME = 256


class WritingTracer:
    """Gives new spans their place, and passes those of sampled traces on."""

    def __init__(self, put: Callable[[Span], None], *, sample_ratio: float) -> None:
        """`put` takes every span that is to be sent; `sample_ratio` is for traces that begin here."""
        self._put = put
        self._roots: list[TraceContext] = []
        self._bound = round(sample_ratio * _SHARES)

    @property
    def is_on(self) -> bool:
        """Somebody wants spans."""
        return True

    def begin(self, parent: TraceContext | None) -> TraceContext:
        """See `Tracer`."""
        if parent is not None:
            return TraceContext(parent.trace_id, new_span_id(), parent.is_sampled, parent.state)
        try:
            root = self._roots.pop()
        except IndexError:
            root, *more = new_roots(_ROOTS_AT_A_TIME)
            # Of two threads that draw at a time each keeps its own for all to take.
            self._roots += more
        # By the last 7 bytes, which the standard promises to be random: whoever has the same ratio decides the same for the same trace.
        if self._bound == _SHARES or int(root.trace_id[18:], 16) < self._bound:
            return root
        return root._replace(is_sampled=False)

    def write(self, span: Span) -> None:
        """See `Tracer`."""
        if span.context.is_sampled:
            self._put(span)


@asynccontextmanager
async def tracing(settings: TraceSettings, *, service: str, limits: OutboxLimits | None = None) -> AsyncIterator[Tracer]:
    """The tracer of the process `service`; at the end of the block what is not sent yet is sent, within `CLOSE_S`, or dropped."""
    url = settings.otlp_url()
    if not url:
        yield SILENT
        return
    # Late: whoever has no traces neither waits for these imports nor holds their memory.
    from runtime.traces.otlp import Collector as OtlpCollector

    resource = {
        "service.name": service,
        "service.namespace": "warmlane",
        "service.version": version("warmlane"),
        "service.instance.id": str(uuid.uuid4()),
    }
    collector = OtlpCollector(url, settings.otlp_header_map(), resource)
    outbox = Outbox(collector.send, limits)
    try:
        yield WritingTracer(outbox.put, sample_ratio=settings.trace_sample_ratio)
    finally:
        await asyncio.shield(asyncio.to_thread(_close, outbox, collector))


def _close(outbox: Outbox, collector: Collector) -> None:
    # A thread that is still sending ends with the process; its connection is not taken from under it.
    if outbox.close(CLOSE_S):
        collector.close()
