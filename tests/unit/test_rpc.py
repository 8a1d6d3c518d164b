"""Errors, health, reflection and addresses of the gRPC server that every process uses, over a real channel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import admission_service_pb2_grpc as pb_grpc

from runtime.addresses import BindError
from runtime.errors import ServiceError
from runtime.rpc import GrpcServer, create_channel
from runtime.rpc_errors import service_error
from runtime.rules.request import Violation

SERVICE = "warmlane.admission.v1.AdmissionService"


class Servicer:
    """Does in GetTask and WatchTask what the test says; has no other method."""

    def __init__(self, behave: Callable[[], Awaitable[None]]) -> None:
        self._behave = behave

    async def GetTask(self, request: pb.GetTaskRequest, context: object) -> pb.GetTaskResponse:  # noqa: N802
        await self._behave()
        return pb.GetTaskResponse()

    async def WatchTask(self, request: pb.WatchTaskRequest, context: object) -> AsyncIterator[pb.WatchTaskResponse]:  # noqa: N802
        yield pb.WatchTaskResponse()
        await self._behave()


class DomainError(Exception):
    """An error of a process of its own."""


def _translated(error: Exception) -> ServiceError | None:
    return ServiceError(code="task_not_done", message="Wait.") if isinstance(error, DomainError) else None


class Running:
    """A server and a stub to it."""

    def __init__(self, server: GrpcServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = pb_grpc.AdmissionServiceStub(channel)


Serve = Callable[[Callable[[], Awaitable[None]]], Awaitable[Running]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers that are stopped after the test."""
    running: list[Running] = []

    async def start(behave: Callable[[], Awaitable[None]]) -> Running:
        server = GrpcServer(
            "127.0.0.1:0",
            {SERVICE: lambda target: _add(Servicer(behave), target)},
            translate=_translated,
        )
        await server.start()
        running.append(Running(server, create_channel(f"127.0.0.1:{server.port}")))
        return running[-1]

    yield start
    for one in running:
        await one.channel.close()
        await one.server.stop(0)


def _add(servicer: Servicer, server: grpc.aio.Server) -> None:
    """Only the two methods: the others do not exist on this server."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "GetTask": grpc.unary_unary_rpc_method_handler(
            servicer.GetTask, pb.GetTaskRequest.FromString, pb.GetTaskResponse.SerializeToString
        ),
        "WatchTask": grpc.unary_stream_rpc_method_handler(
            servicer.WatchTask, pb.WatchTaskRequest.FromString, pb.WatchTaskResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _health(channel: grpc.aio.Channel) -> Any:
    """The health stub; its types know no asyncio."""
    return health_pb2_grpc.HealthStub(channel)


def _reflection(channel: Any) -> Any:
    """The reflection stub; its types know no asyncio."""
    return reflection_pb2_grpc.ServerReflectionStub(channel)


def _raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def behave() -> None:
        raise error

    return behave


async def _nothing() -> None:
    return None


async def _refusal(running: Running) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.GetTask(pb.GetTaskRequest(), timeout=5)
    return caught.value


async def test_error_arrives_whole_when_a_handler_raises_it(serve: Serve) -> None:
    told = ServiceError(
        code="queue_overloaded",
        message="25 wait already.",
        metadata={"cause": "depth", "depth": "25"},
        retry_after_s=7.5,
    )

    refusal = await _refusal(await serve(_raising(told)))

    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    error = service_error(refusal)
    assert (error.code, error.message, error.metadata, error.retry_after_s) == (told.code, told.message, told.metadata, 7.5)


async def test_violations_arrive_in_order_when_a_request_is_refused(serve: Serve) -> None:
    violations = (Violation(field="steps", message="must be 8"), Violation(field="arbitrary_frames[2].strength", message="0.1 to 1"))
    told = ServiceError(code="validation_error", message="2 fields are wrong.", violations=violations)

    refusal = await _refusal(await serve(_raising(told)))

    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert service_error(refusal).violations == violations


async def test_error_stays_small_when_very_many_fields_are_wrong(serve: Serve) -> None:
    violations = tuple(Violation(field=f"arbitrary_frames[{index}].image", message="is missing " * 30) for index in range(200))
    told = ServiceError(code="validation_error", message="200 fields are wrong.", violations=violations)

    error = service_error(await _refusal(await serve(_raising(told))))

    assert error.code == "validation_error"
    assert 1 < len(error.violations) < 200
    # The last one told names how many are not: those before it are told whole.
    assert error.violations[-1].message == f"This and {200 - len(error.violations)} more are wrong too."


async def test_error_of_the_process_is_translated_when_a_stream_raises_it(serve: Serve) -> None:
    running = await serve(_raising(DomainError()))
    call = running.stub.WatchTask(pb.WatchTaskRequest(), timeout=5)
    assert await call.read() == pb.WatchTaskResponse()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert service_error(caught.value).code == "task_not_done"


async def test_nothing_inner_is_told_when_a_handler_fails(serve: Serve) -> None:
    refusal = await _refusal(await serve(_raising(RuntimeError("/secret/path"))))

    assert refusal.code() is grpc.StatusCode.INTERNAL
    error = service_error(refusal)
    assert error.code == "internal"
    assert "/secret/path" not in f"{refusal.details()}{error.metadata}"
    assert error.metadata["error_id"] in error.message


async def test_handler_is_cancelled_when_the_caller_hangs_up(serve: Serve) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    running = await serve(wait)
    call = running.stub.GetTask(pb.GetTaskRequest(), timeout=30)
    asking = asyncio.ensure_future(call.code())
    await asyncio.wait_for(begun.wait(), 5)
    call.cancel()

    await asyncio.wait_for(cancelled.wait(), 5)
    assert await asking is grpc.StatusCode.CANCELLED


async def test_error_is_service_unavailable_when_nobody_listens() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        async with create_channel(f"127.0.0.1:{held.getsockname()[1]}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pb_grpc.AdmissionServiceStub(channel).GetTask(pb.GetTaskRequest(), timeout=5)

    error = service_error(caught.value)
    assert error.code == "service_unavailable"
    assert error.retry_after_s is not None


async def test_error_is_service_unavailable_when_the_deadline_passes(serve: Serve) -> None:
    running = await serve(lambda: asyncio.Event().wait())  # type: ignore[arg-type,return-value]

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.GetTask(pb.GetTaskRequest(), timeout=0.2)

    assert service_error(caught.value).code == "service_unavailable"


async def test_error_is_internal_when_a_method_does_not_exist(serve: Serve) -> None:
    running = await serve(_nothing)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.stub.ListModels(pb.ListModelsRequest(), timeout=5)

    assert service_error(caught.value).code == "internal"


async def test_health_follows_what_the_process_says(serve: Serve) -> None:
    running = await serve(_nothing)
    health = _health(running.channel)
    before = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)

    await running.server.set_serving("", True)
    after = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    service = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert (before.status, after.status, service.status) == (not_serving, serving, not_serving)


async def test_health_watcher_hears_of_the_end_when_the_server_stops(serve: Serve) -> None:
    running = await serve(_nothing)
    await running.server.set_serving("", True)
    call = _health(running.channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
    first = await call.read()

    stopping = asyncio.create_task(running.server.stop(0.5))
    second = await call.read()
    call.cancel()
    await stopping

    assert first.status == health_pb2.HealthCheckResponse.SERVING
    assert second.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_services_are_listed_by_reflection(serve: Serve) -> None:
    running = await serve(_nothing)
    call = _reflection(running.channel).ServerReflectionInfo(timeout=5)

    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    await call.done_writing()

    names = {service.name for service in answer.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051", "example.invalid:1"])
def test_server_is_refused_when_the_address_is_not_on_loopback(bind: str) -> None:
    with pytest.raises(BindError, match="loopback only"):
        GrpcServer(bind, {})


@pytest.mark.parametrize("bind", ["50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", ":50051"])
def test_server_is_refused_when_the_address_has_no_port(bind: str) -> None:
    with pytest.raises(BindError, match="host:port"):
        GrpcServer(bind, {})


async def test_start_fails_when_another_server_holds_the_port(serve: Serve) -> None:
    running = await serve(_nothing)

    with pytest.raises(BindError, match="another process holds the port"):
        await GrpcServer(f"127.0.0.1:{running.server.port}", {}).start()
