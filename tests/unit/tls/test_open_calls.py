"""What anyone may call, without a token, takes no more of a server than its limits."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtime import open_calls
from runtime.credentials import ServerCredentials
from runtime.errors import ErrorCode
from runtime.open_calls import OpenCalls
from runtime.rpc import GrpcServer, create_channel
from runtime.rpc_errors import service_error
from tests.harness.credentials import TOKENS

CHECK = "/grpc.health.v1.Health/Check"


def _server() -> GrpcServer:
    return GrpcServer("127.0.0.1:0", {}, credentials=ServerCredentials(tokens={role: (token,) for role, token in TOKENS.items()}))


def _health(channel: grpc.aio.Channel) -> Any:
    # These stubs have no types for asynchronous channels.
    return health_pb2_grpc.HealthStub(channel)


def _reflection(channel: grpc.aio.Channel) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]


async def _code(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return service_error(caught.value).code


async def test_watches_are_refused_when_many_are_open_and_probes_are_answered() -> None:
    # Each costs some 40 KiB and none needs a token: a few hundred thousand took all memory of admission.
    server = _server()
    await server.start()
    try:
        async with create_channel(f"127.0.0.1:{server.port}") as channel:
            stub = _health(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(open_calls.MOST_STREAMS)]
            await asyncio.gather(*(watch.read() for watch in watches))
            assert await _code(stub.Watch(health_pb2.HealthCheckRequest())) == ErrorCode.SERVICE_UNAVAILABLE
            assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watches[0].cancel()
            async with asyncio.timeout(5):
                # The server hears of it a moment later.
                while True:
                    try:
                        await stub.Watch(health_pb2.HealthCheckRequest(), timeout=5).read()
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)
    finally:
        await server.stop(0)


async def test_call_ends_when_its_request_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.rpc_handlers.OpenCalls", lambda: OpenCalls(request_s=0.05))
    server = _server()
    await server.start()
    try:
        async with create_channel(f"127.0.0.1:{server.port}") as channel:
            assert await _code(channel.stream_stream(CHECK)(timeout=5)) == ErrorCode.VALIDATION_ERROR
            reflected = _reflection(channel).ServerReflectionInfo(timeout=5)
            await reflected.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert await reflected.read() is not grpc.aio.EOF
            assert await _code(reflected) == ErrorCode.VALIDATION_ERROR
    finally:
        await server.stop(0)


async def test_request_is_refused_when_it_is_larger_than_any_name() -> None:
    server = _server()
    await server.start()
    try:
        async with create_channel(f"127.0.0.1:{server.port}") as channel:
            watch = _health(channel).Watch(health_pb2.HealthCheckRequest(service="x" * 5000), timeout=5)
            assert await _code(watch) == ErrorCode.VALIDATION_ERROR
    finally:
        await server.stop(0)
