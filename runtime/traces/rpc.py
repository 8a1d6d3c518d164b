"""Traces of gRPC: who serves writes a span of the call, who calls passes the context on as metadata."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from runtime.rpc_observer import AbortedContext, Ended, observed_call
from runtime.token_channel import CarryingChannel
from runtime.traces import names
from runtime.traces.context import TraceContext, parse
from runtime.traces.current import OpenSpan, current, enter
from runtime.traces.tracer import Kind, Span, Tracer, Value

if TYPE_CHECKING:
    from collections.abc import Collection

PARENT = "traceparent"
STATE = "tracestate"


Call = Callable[[object, AbortedContext], Awaitable[object]]
Stream = Callable[[object, AbortedContext], AsyncIterator[object]]


class RpcTraces:
    """Spans of the calls that a server answers: of those that bring a context, and of `roots` always.

    The others are mostly questions that are asked again and again; a trace of each would say nothing.
    """

    def __init__(self, tracer: Tracer, *, roots: Collection[str] = ()) -> None:
        """Writes by this tracer. `roots`: methods (`/package.Service/Method`) with which a trace may begin."""
        self._tracer = tracer
        self._roots = frozenset(roots)

    def arrived(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """A call came with this metadata. Told while its handler is looked for: there it is at hand, and its context would make it anew."""
        for key, _ in metadata:
            if key == PARENT:
                # grpc.aio looks for the handler in the task that serves the call, and in no other.
                _ARRIVED.set(_context_of(metadata))
                return

    def call(self, handler: Call, method: str, ended: Ended | None = None) -> Call:
        """The handler of a single answer, with a span for each call. It tells `ended` too, as a wrapper of its own would cost as much.

        The way of a call that is answered calls no more than it must: so seldom done, each call costs several times what a loop shows.
        """
        untraced = handler if ended is None else observed_call(handler, ended)
        begin, write, is_root, name = self._tracer.begin, self._tracer.write, method in self._roots, method[1:]

        async def call(request: object, context: AbortedContext) -> object:
            parent = _ARRIVED.get()
            if parent is None and not is_root:
                return await untraced(request, context)
            own = begin(parent)
            attributes: dict[str, Value] = {names.RPC_SYSTEM: "grpc"}
            opened = OpenSpan(own, attributes)
            parent_id = "" if parent is None else parent.span_id
            # grpc.aio serves each call in a task of its own, and a span ends with its call.
            enter(opened)
            began_ns, started_s = time.time_ns(), time.perf_counter()
            try:
                answer = await handler(request, context)
            except BaseException:
                status = context.code() or grpc.StatusCode.CANCELLED
                if ended is not None:
                    ended(status, time.perf_counter() - started_s)
                self.end(opened, parent_id, method, began_ns, status)
                raise
            if ended is not None:
                ended(grpc.StatusCode.OK, time.perf_counter() - started_s)
            if own.is_sampled:
                attributes[names.RPC_STATUS] = "OK"
                write(Span(name, own, parent_id, began_ns, time.time_ns(), attributes, Kind.SERVER))
            return answer

        return call

    def stream(self, handler: Stream, method: str) -> Stream:
        """The handler of many answers, with a span for each call; it is over when the stream is."""

        async def stream(request: object, context: AbortedContext) -> AsyncIterator[object]:
            opened = self._open(method)
            began_ns, status = time.time_ns(), grpc.StatusCode.OK
            answers = handler(request, context)
            try:
                async for answer in answers:
                    yield answer
            except BaseException:
                status = context.code() or grpc.StatusCode.CANCELLED
                raise
            finally:
                if opened is not None:
                    self.end(*opened, method, began_ns, status)
                await answers.aclose()  # type: ignore[attr-defined]

        return stream

    def _open(self, method: str) -> tuple[OpenSpan, str] | None:
        """The span of a call, and its parent's id; from now on it is the current one. None: the call gets none."""
        begun = self.begin(_ARRIVED.get(), method)
        if begun is not None:
            # grpc.aio serves each call in a task of its own, and a span ends with its call.
            enter(begun[0])
        return begun

    def begin(self, parent: TraceContext | None, method: str) -> tuple[OpenSpan, str] | None:
        """The span of something that came as a call of the method or inside another one, and its parent's id; None: it gets none."""
        if parent is None and method not in self._roots:
            return None
        return OpenSpan(self._tracer.begin(parent), {names.RPC_SYSTEM: "grpc"}), "" if parent is None else parent.span_id

    def end(self, opened: OpenSpan, parent_id: str, method: str, began_ns: int, status: grpc.StatusCode) -> None:
        """Writes the span of a call that ended now with this status."""
        if not opened.context.is_sampled:
            return
        attributes, is_ok = opened.attributes, status is grpc.StatusCode.OK
        attributes[names.RPC_STATUS] = "OK" if is_ok else status.name
        is_failed = not is_ok and status in _FAULTS
        # In their order: naming them takes as long as all else here.
        self._tracer.write(Span(method[1:], opened.context, parent_id, began_ns, time.time_ns(), attributes, Kind.SERVER, is_failed))


# The context that the call which is served here brought.
_ARRIVED: ContextVar[TraceContext | None] = ContextVar("warmlane-arrived", default=None)

# Those that say that the server failed, not that the caller asked for what it cannot have (OpenTelemetry's list).
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class TraceChannel(CarryingChannel):
    """Passes everything on to the channel that it owns; calls that are made while a span is open carry its context."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Owns the channel from now on."""
        super().__init__(channel, _metadata)


def _metadata() -> grpc.aio.Metadata | None:
    context = current()
    if context is None:
        return None
    if context.state:
        return grpc.aio.Metadata((PARENT, context.traceparent), (STATE, context.state))
    return grpc.aio.Metadata((PARENT, context.traceparent))


def _context_of(metadata: Iterable[tuple[str, str | bytes]]) -> TraceContext | None:
    """Of two `traceparent` gRPC itself gives us one; several `tracestate` are one list, says the standard."""
    parent, state = "", ""
    for key, value in metadata:
        if key == PARENT and isinstance(value, str):
            parent = value
        elif key == STATE and isinstance(value, str):
            state = f"{state},{value}" if state else value
    return parse(parent, state) if parent else None
