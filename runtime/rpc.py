"""gRPC as every process uses it: one way to make servers and channels, and one place where errors of handlers are told."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, cast

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from runtime.addresses import TAKEN, BindError, check_free, check_loopback
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc_errors import RpcContext, abort
from runtime.rpc_observer import RpcObserver, observed_call, observed_stream

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
OVERALL = ""
"""Name of the whole server in grpc.health.v1."""

# Both ends speak of the same pings: a client that pings more often than its server allows is thrown out (GOAWAY too_many_pings).
_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SIZES: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_log = structlog.get_logger()

Translate = Callable[[Exception], ServiceError | None]
"""Turns a process's own errors into what a client is told; None for those that no client should see."""


def create_channel(address: str) -> grpc.aio.Channel:
    """A channel to `host:port`; its owner closes it. It connects when first used and again after a break, at most 2 s between tries."""
    options: tuple[tuple[str, int], ...] = (
        *_KEEPALIVE,
        *_SIZES,
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A replaced container has a new address: the default looks it up only every 30 s.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # Channels do not share connections, so one that is closed takes only its own away.
        ("grpc.use_local_subchannel_pool", 1),
        # Processes talk to each other directly, whatever proxy the environment names for the outside.
        ("grpc.enable_http_proxy", 0),
    )
    return grpc.aio.insecure_channel(address, options=options)


class GrpcServer:
    """A grpc.aio server with health, reflection and errors as the design wants them. One event loop owns it.

    Health starts as NOT_SERVING, overall and for each service; `set_serving` changes it.
    """

    def __init__(
        self,
        bind: str,
        services: Mapping[str, Callable[[grpc.aio.Server], None]],
        *,
        translate: Translate | None = None,
        observer: RpcObserver | None = None,
    ) -> None:
        """Prepares a server; it listens from `start` on.

        Args:
            bind: `host:port` on loopback; port 0 picks a free one.
            services: full name of each service, and what adds it to the server.
            translate: the process's own errors as what clients are told.
            observer: counts the calls.

        Raises:
            BindError: the address is not on loopback.
        """
        check_loopback(bind)
        self._bind = bind
        self._services = dict(services)
        self._told = Told(translate, observer)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `start`."""
        return self._port

    async def start(self) -> None:
        """Listens and serves. Raises BindError when the port is taken."""
        server = grpc.aio.server(
            options=(
                *_KEEPALIVE,
                *_SIZES,
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # Two servers must never share a port silently, each getting some of the calls.
                ("grpc.so_reuseport", 0),
            ),
        )
        plain = cast("grpc.aio.Server", _PlainServer(server, self._told))
        for add in self._services.values():
            add(plain)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, plain)
        for name in (OVERALL, *self._services):
            await self.set_serving(name, False)
        reflection.enable_server_reflection((*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        check_free(self._bind)
        try:
            self._port = server.add_insecure_port(self._bind)
        except RuntimeError as error:
            raise BindError(self._bind, TAKEN) from error
        await server.start()
        self._server = server

    async def set_serving(self, service: str, serving: bool) -> None:
        """Says over grpc.health.v1 whether a service serves; any name may be used, `""` is the whole server."""
        serves, not_serves = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, serves if serving else not_serves)

    async def stop(self, grace_s: float) -> None:
        """Says NOT_SERVING for good, refuses new calls, gives those in work `grace_s` seconds, then cancels them. May be called twice."""
        await self._health.enter_graceful_shutdown()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)


class _PlainServer:
    """A server that takes methods by their names only, and tells their errors.

    Generated code registers each method twice. For every registered method the server keeps a call of its own waiting and walks through
    all of them at each request: with 23 methods that costs more than our own part of a small call (grpcio 1.85). An interceptor would
    run at every request too; a handler is wrapped once.
    """

    def __init__(self, server: grpc.aio.Server, told: Told) -> None:
        self._server = server
        self._told = told

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_WrappedHandlers(handler, self._told) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, object]) -> None:
        """Not taken: see the class."""


class _WrappedHandlers(grpc.GenericRpcHandler):
    """The methods of one service, each wrapped when it is called first."""

    def __init__(self, handlers: grpc.GenericRpcHandler, told: Told) -> None:
        self._handlers = handlers
        self._told = told
        self._wrapped: dict[str, grpc.RpcMethodHandler[object, object] | None] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[object, object] | None:
        """The method's handler; None: it is not of this service."""
        method = handler_call_details.method
        try:
            return self._wrapped[method]
        except KeyError:
            handler = self._handlers.service(handler_call_details)
            if handler is None:
                # Not remembered: clients may ask for any name.
                return None
            wrapped = self._wrapped[method] = cast("grpc.RpcMethodHandler[object, object]", self._told.wrap(handler, method))
            return wrapped


class Told:
    """The one place where an exception of a handler becomes a gRPC status.

    ServiceError and what `translate` knows are told as they are; anything else is logged and told as INTERNAL with an id to find it by.
    """

    def __init__(self, translate: Translate | None = None, observer: RpcObserver | None = None) -> None:
        """Keeps the translation of the process's own errors, and who counts the calls."""
        self._translate = translate
        self._observer = observer

    def wrap(self, handler: grpc.RpcMethodHandler[_In, _Out], method: str) -> object:
        """The handler, with its errors told."""
        for kind, make in _HANDLER_KINDS.items():
            behaviour = getattr(handler, kind)
            if behaviour is None:
                continue
            ended = None if self._observer is None else self._observer.method(method)
            if inspect.isasyncgenfunction(behaviour):
                stream = self._wrap_stream(behaviour, method)
                wrapped: object = stream if ended is None else observed_stream(stream, ended)
            elif inspect.iscoroutinefunction(behaviour):
                call = self._wrap_call(behaviour, method)
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
        if isinstance(error, ServiceError):
            return error
        known = self._translate(error) if self._translate is not None else None
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
