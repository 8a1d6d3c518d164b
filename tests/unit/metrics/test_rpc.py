"""Calls of a gRPC server are counted by method and by what became of them, over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc.aio
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import admission_service_pb2_grpc as pb_grpc

from runtime.errors import ServiceError
from runtime.metrics.registry import Registry
from runtime.metrics.rpc import RpcMetrics
from runtime.rpc import GrpcServer, create_channel
from tests.harness.metrics import page_of

SERVICE = "warmlane.admission.v1.AdmissionService"
PATIENCE_S = 5.0

Behave = Callable[[], Awaitable[None]]


class Servicer:
    """Does what the test says."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave

    async def GetTask(self, request: pb.GetTaskRequest, context: object) -> pb.GetTaskResponse:  # noqa: N802
        await self._behave()
        return pb.GetTaskResponse()

    async def WatchTask(self, request: pb.WatchTaskRequest, context: object) -> AsyncIterator[pb.WatchTaskResponse]:  # noqa: N802
        yield pb.WatchTaskResponse()
        await self._behave()


def _add(servicer: Servicer, server: grpc.aio.Server) -> None:
    kinds: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "GetTask": grpc.unary_unary_rpc_method_handler(
            servicer.GetTask, request_deserializer=pb.GetTaskRequest.FromString, response_serializer=pb.GetTaskResponse.SerializeToString
        ),
        "WatchTask": grpc.unary_stream_rpc_method_handler(
            servicer.WatchTask,
            request_deserializer=pb.WatchTaskRequest.FromString,
            response_serializer=pb.WatchTaskResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, kinds),))


@asynccontextmanager
async def counted(behave: Behave) -> AsyncIterator[tuple[pb_grpc.AdmissionServiceAsyncStub, Registry]]:
    """A server that counts, and a stub to it; what is in work ends with it."""
    registry = Registry("test")
    server = GrpcServer("127.0.0.1:0", {SERVICE: lambda to: _add(Servicer(behave), to)}, observer=RpcMetrics(registry))
    await server.start()
    try:
        async with create_channel(f"127.0.0.1:{server.port}") as channel:
            yield pb_grpc.AdmissionServiceStub(channel), registry
    finally:
        await server.stop(PATIENCE_S)


async def _nothing() -> None:
    return


async def _refuse() -> None:
    raise ServiceError(code="task_not_found", message="No.")


async def _break() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(("behave", "code"), [(_nothing, "OK"), (_refuse, "NOT_FOUND"), (_break, "INTERNAL")])
async def test_status_is_counted_when_a_call_ends(behave: Behave, code: str) -> None:
    async with counted(behave) as (stub, registry):
        for _ in range(2):
            with suppress(grpc.RpcError):
                await stub.GetTask(pb.GetTaskRequest(), timeout=PATIENCE_S)
        with suppress(grpc.RpcError):
            async for _ in stub.WatchTask(pb.WatchTaskRequest(), timeout=PATIENCE_S):
                pass
    page = page_of(registry)
    assert page.value("grpc_requests_total", method=f"{SERVICE}/GetTask", code=code) == 2
    assert page.value("grpc_requests_total", method=f"{SERVICE}/WatchTask", code=code) == 1
    assert page.total("grpc_requests_total") == 3
    assert page.value("grpc_request_seconds_count", method=f"{SERVICE}/GetTask") == 2


async def test_call_is_counted_as_cancelled_when_its_caller_goes_away() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with counted(hang) as (stub, registry):
        calls: tuple[Callable[[], grpc.aio.Call], ...] = (
            lambda: stub.GetTask(pb.GetTaskRequest()),
            lambda: stub.WatchTask(pb.WatchTaskRequest()),
        )
        for begin in calls:
            begun.clear()
            ended.clear()
            async with asyncio.timeout(PATIENCE_S):
                call = begin()
                await begun.wait()
                call.cancel()
                await ended.wait()
    page = page_of(registry)
    assert page.value("grpc_requests_total", method=f"{SERVICE}/GetTask", code="CANCELLED") == 1
    assert page.value("grpc_requests_total", method=f"{SERVICE}/WatchTask", code="CANCELLED") == 1


async def test_no_series_is_made_when_a_client_asks_for_names_that_no_service_has() -> None:
    async with counted(_nothing) as (stub, registry):
        with suppress(grpc.RpcError):
            await stub.ListModels(pb.ListModelsRequest(), timeout=PATIENCE_S)
    assert page_of(registry).total("grpc_requests_total") == 0
