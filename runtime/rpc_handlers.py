"""Handlers of gRPC methods as every server has them: refused when the guard says so, errors told in one place, ends counted."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar, cast

import grpc
import grpc.aio
import structlog

from runtime.errors import ErrorCode, ServiceError
from runtime.guard import Guard, RefusalLog
from runtime.open_calls import OpenCalls
from runtime.roles import roles_of
from runtime.rpc_errors import RpcContext, abort
from runtime.rpc_observer import Ended, RpcObserver, observed_call, observed_stream
from runtime.traces import names
from runtime.traces.current import annotate
from runtime.traces.rpc import RpcTraces

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Handler: TypeAlias = "grpc.RpcMethodHandler[object, object]"

_log = structlog.get_logger()

Arrived = Callable[[Iterable[tuple[str, str | bytes]]], None]
"""Is told what metadata a call came with."""

Translate = Callable[[Exception], ServiceError | None]
"""Turns a process's own errors into what a client is told; None for those that no client should see."""


class PlainServer:
    """A server that takes methods by their names only, and tells their errors.

    Generated code registers each method twice. For every registered method the server keeps a call of its own waiting and walks through
    all of them at each request: with 23 methods that costs more than our own part of a small call (grpcio 1.85). An interceptor would
    run at every request too; a handler is wrapped once.
    """

    def __init__(self, server: grpc.aio.Server, told: Told, guard: Guard | None) -> None:
        self._server = server
        self._told = told
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_WrappedHandlers(handler, self._told, self._guard) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """Not taken: see the class."""


class _WrappedHandlers(grpc.GenericRpcHandler):
    """The methods of one service, each wrapped when it is called first; a call that the guard refuses gets a handler that says so."""

    def __init__(self, handlers: grpc.GenericRpcHandler, told: Told, guard: Guard | None) -> None:
        self._handlers = handlers
        self._told = told
        self._guard = guard
        self._arrived = told.arrived
        self._wrapped: dict[str, _Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """The method's handler; None: it is not of this service."""
        method = handler_call_details.method
        try:
            wrapped = self._wrapped[method]
        except KeyError:
            handler = self._handlers.service(handler_call_details)
            if handler is None:
                # Not remembered: clients may ask for any name.
                return None
            is_open = roles_of(method) is None
            wrapped = self._told.open_to_all(handler, method) if is_open else cast("_Handler", self._told.wrap(handler, method))
            self._wrapped[method] = wrapped
        if self._guard is not None and (error := self._guard.refusal(method, handler_call_details.invocation_metadata or ())) is not None:
            return self._told.refusal(error, method)
        if self._arrived is not None:
            self._arrived(handler_call_details.invocation_metadata or ())
        return wrapped


class _PeerContext(RpcContext, Protocol):
    """The part of a handler's context that a refusal needs."""

    def peer(self) -> str: ...


class Told:
    """The one place where an exception of a handler becomes a gRPC status.

    ServiceError and what `translate` knows are told as they are; anything else is logged and told as INTERNAL with an id to find it by.
    """

    def __init__(self, translate: Translate | None = None, observer: RpcObserver | None = None, traces: RpcTraces | None = None) -> None:
        """Keeps the translation of the process's own errors, who counts the calls, and who writes their spans."""
        self._translate = translate
        self._observer = observer
        self._traces = traces
        self._refusals = RefusalLog()
        self._open_calls = OpenCalls()

    @property
    def arrived(self) -> Arrived | None:
        """Is told of each call that is let in, in the task that serves it; None: nobody is."""
        return None if self._traces is None else self._traces.arrived

    def open_to_all(self, handler: _Handler, method: str) -> _Handler:
        """The handler of a method that anyone may call, within its limits."""
        call, ended = self._open_calls.call(handler), self._ended(method)
        return cast(
            "_Handler",
            grpc.stream_stream_rpc_method_handler(
                call if ended is None else observed_call(call, ended), handler.request_deserializer, handler.response_serializer
            ),
        )

    def refusal(self, error: ServiceError, method: str) -> _Handler:
        """A handler that refuses the call without reading what it brings; of whatever kind the method is, its caller understands it."""

        async def call(_requests: object, context: _PeerContext) -> None:
            self._refusals.tell(context.peer(), method, error)
            await abort(context, error)

        ended = self._ended(method)
        return cast("_Handler", grpc.stream_stream_rpc_method_handler(call if ended is None else observed_call(call, ended)))

    def _ended(self, method: str) -> Ended | None:
        return None if self._observer is None else self._observer.method(method)

    def wrap(self, handler: grpc.RpcMethodHandler[_In, _Out], method: str) -> object:
        """The handler, with its errors told."""
        for kind, make in _HANDLER_KINDS.items():
            behaviour = getattr(handler, kind)
            if behaviour is None:
                continue
            ended = self._ended(method)
            if inspect.isasyncgenfunction(behaviour):
                stream = self._wrap_stream(behaviour, method)
                stream = stream if self._traces is None else self._traces.stream(stream, method)
                wrapped: object = stream if ended is None else observed_stream(stream, ended)
            elif inspect.iscoroutinefunction(behaviour):
                call = self._wrap_call(behaviour, method)
                if self._traces is not None:
                    wrapped = self._traces.call(call, method, ended)
                else:
                    wrapped = call if ended is None else observed_call(call, ended)
            else:
                return handler
            return make(wrapped, handler.request_deserializer, handler.response_serializer)
        return handler

    def _wrap_call(self, behaviour: Callable[..., Awaitable[object]], method: str) -> Callable[..., Awaitable[object]]:
        async def call(request: object, context: RpcContext) -> object:
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, self._told(error, method))

        return call

    def _wrap_stream(self, behaviour: Callable[..., AsyncIterator[object]], method: str) -> Callable[..., AsyncIterator[object]]:
        async def stream(request: object, context: RpcContext) -> AsyncIterator[object]:
            answers = behaviour(request, context)
            try:
                async for answer in answers:
                    yield answer
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, self._told(error, method))
            finally:
                # A call that is cut short must end its handler now, not when the garbage collector finds it.
                await answers.aclose()  # type: ignore[attr-defined]

        return stream

    def _told(self, error: Exception, method: str) -> ServiceError:
        told = as_told(error, self._translate, method)
        annotate(names.CODE, told.code)
        return told


def as_told(error: Exception, translate: Translate | None, method: str) -> ServiceError:
    """What a caller of the method is told of an error; one that nobody knows is logged, under an id that the caller gets."""
    if isinstance(error, ServiceError):
        return error
    known = translate(error) if translate is not None else None
    if known is not None:
        return known
    error_id = uuid.uuid4().hex[:12]
    _log.error("rpc_failed", method=method, error_id=error_id, exc_info=error)
    return ServiceError(
        code=ErrorCode.INTERNAL,
        message=f"Something went wrong inside the service; its log tells more under {error_id}.",
        metadata={"error_id": error_id},
    )


_HANDLER_KINDS: Mapping[str, Callable[..., object]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
