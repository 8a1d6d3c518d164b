"""A server that has every method of every service, and answers each with an empty message."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_channelz.v1 import channelz_pb2

from runtime.credentials import OPEN_SERVER, ServerCredentials
from runtime.rpc import GrpcServer
from runtime.rpc_observer import RpcObserver

_GENERATED = Path(__file__).resolve().parents[2] / "protos" / "gen"
_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


@cache
def services() -> tuple[ServiceDescriptor, ...]:
    """Of all protos, and channelz."""
    names = [".".join(path.relative_to(_GENERATED).with_suffix("").parts) for path in sorted(_GENERATED.rglob("*_pb2.py"))]
    files = [*(importlib.import_module(name).DESCRIPTOR for name in names), channelz_pb2.DESCRIPTOR]
    return tuple(service for file in files for service in file.services_by_name.values())


def methods() -> tuple[MethodDescriptor, ...]:
    """Of all services."""
    return tuple(method for service in services() for method in service.methods)


def path_of(method: MethodDescriptor) -> str:
    """As it is called."""
    return f"/{method.containing_service.full_name}/{method.name}"


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, *, timeout_s: float = 5.0) -> None:
    """Calls it with an empty message; raises grpc.aio.AioRpcError."""
    kind = _KINDS[method.client_streaming, method.server_streaming]
    made = getattr(channel, kind)(path_of(method))
    called = made(iter([b""]) if method.client_streaming else b"", timeout=timeout_s)
    if method.server_streaming:
        async for _ in called:
            pass
    else:
        await called


async def _one(_request: object, _context: object) -> bytes:
    return b""


async def _many(_request: object, _context: object) -> AsyncIterator[bytes]:
    yield b""


def _add(service: ServiceDescriptor, server: grpc.aio.Server) -> None:
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in service.methods:
        make: Callable[..., Any] = getattr(grpc, f"{_KINDS[method.client_streaming, method.server_streaming]}_rpc_method_handler")
        handlers[method.name] = make(_many if method.server_streaming else _one)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


@asynccontextmanager
async def echo(
    credentials: ServerCredentials = OPEN_SERVER, *, bind: str = "127.0.0.1:0", observer: RpcObserver | None = None
) -> AsyncIterator[GrpcServer]:
    """Serves."""
    adders: Mapping[str, Callable[[grpc.aio.Server], None]] = {one.full_name: partial(_add, one) for one in services()}
    server = GrpcServer(bind, adders, credentials=credentials, observer=observer)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)
