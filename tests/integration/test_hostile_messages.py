"""Whatever a caller or a lane sends, admission answers with a refusal, goes on, and still serves others; on the engine that is pickiest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from warmlane.admission.v1 import access_service_pb2, admission_service_pb2, operator_service_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as lane_pb
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from admission.store.sql import SqlStore
from runtime.rpc_errors import service_error
from tests.harness.admission_services import Stack, accepted_task, admission_stack, ready_lane
from tests.harness.hostile_messages import Hostile
from tests.harness.lane_words import good_report
from tests.harness.postgresql import PostgresqlServer

_SERVICES = (
    admission_service_pb2.DESCRIPTOR.services_by_name["AdmissionService"],
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"],
)
_KNOWN_ENDS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED)
# Of our own end: the stream had been ended while it was being written.
_WROTE_TOO_LATE = "Internal error from Core"
# A call that waits is none that broke.
_PATIENCE_S = 0.3
_ROUNDS = [pytest.param(1, 12, id="short"), *(pytest.param(seed, 400, id=f"long-{seed}", marks=pytest.mark.long) for seed in range(3))]

_LANE_ROUNDS = [pytest.param(seed, 3000, id=f"long-{seed}", marks=pytest.mark.long) for seed in range(3)]


@pytest.fixture
def database(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """An empty database."""
    url = postgresql_server.create_database()
    yield url
    postgresql_server.drop_database(url)


@asynccontextmanager
async def admission_on(database: str, folder: Path) -> AsyncIterator[Stack]:
    """Admission on this database; at the end it must not have failed."""
    async with admission_stack(folder, store=SqlStore(database)) as stack:
        failing = asyncio.create_task(stack.engine.wait_failed())
        try:
            yield stack
            await asyncio.sleep(0)
            assert not failing.done(), failing.exception()
        finally:
            failing.cancel()
            await asyncio.gather(failing, return_exceptions=True)


async def call(stack: Stack, method: str, requests: list[Message]) -> str:
    """What becomes of a call of a method, of whatever kind it is; raises AssertionError when admission does not know what."""
    stream: Any = stack.channel.stream_stream(method, request_serializer=lambda one: one.SerializeToString(), response_deserializer=None)
    running = stream(iter(requests), timeout=_PATIENCE_S)
    try:
        while await running.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        if error.details() == _WROTE_TOO_LATE:
            return "ENDED"
        if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            pytest.fail(f"{method}: {service_error(error).message}\n{requests}")
        return error.code().name
    return "OK"


async def serves_all(stack: Stack, task_id: str) -> None:
    """Nothing that was said keeps others from their answers."""
    await stack.snapshot()
    await stack.clients.ListModels(admission_service_pb2.ListModelsRequest(), timeout=5)
    await stack.clients.ListTasks(admission_service_pb2.ListTasksRequest(), timeout=5)
    await stack.clients.GetTask(admission_service_pb2.GetTaskRequest(task_id=task_id), timeout=5)


@pytest.mark.parametrize(("seed", "rounds"), _ROUNDS)
async def test_every_method_refuses_when_its_messages_make_no_sense(database: str, tmp_path: Path, seed: int, rounds: int) -> None:
    hostile = Hostile(seed)
    outcomes = set()
    async with admission_on(database, tmp_path) as stack:
        await ready_lane(stack)
        task = await accepted_task(stack)
        for _ in range(rounds):
            for service in _SERVICES:
                for method in service.methods:
                    kind = message_factory.GetMessageClass(method.input_type)
                    messages = [hostile.filled(kind(), share=hostile.random.choice((0.2, 0.7, 1.0))) for _ in range(2)]
                    requests: list[Message] = list(messages if method.client_streaming else messages[:1])
                    outcomes.add(await call(stack, f"/{service.full_name}/{method.name}", requests))
        assert outcomes >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
        await serves_all(stack, task.task_id)


async def said(stack: Stack, report: lane_pb.LaneReport) -> lane_pb.DesiredState | None:
    """What admission answers to a report on a stream of its own; None: it ended the stream, and knew why."""
    stream = DispatchServiceStub(stack.channel).Attach(timeout=5)
    try:
        await stream.write(lane_pb.AttachRequest(report=report))
        answer = await stream.read()
        return answer.desired if isinstance(answer, lane_pb.AttachResponse) else None
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        assert await stream.code() in _KNOWN_ENDS or await stream.details() == _WROTE_TOO_LATE, await stream.details()
        return None
    finally:
        stream.cancel()


@pytest.mark.parametrize(("seed", "rounds"), [pytest.param(1, 120, id="short"), *_LANE_ROUNDS])
async def test_tasks_are_served_when_lanes_say_what_makes_no_sense(database: str, tmp_path: Path, seed: int, rounds: int) -> None:
    # Found so: a NUL in any text ended admission on PostgreSQL, figures that overflow kept every request of the model out, and a duration
    # of ages made every snapshot fail.
    hostile = Hostile(seed)
    lease, refused, boot, task_id = lane_pb.Lease(), 0, 1, ""
    async with admission_on(database, tmp_path) as stack:
        for number in range(rounds):
            desired = await said(stack, hostile.spoiled(good_report(lease, hostile.random, boot)))
            refused += desired is None
            lease = desired.lease if desired is not None and desired.HasField("lease") else lease
            if number % 10 == 0:
                # Well said again, by a new process of the lane: it takes work, and what was learned of the nonsense refuses nobody.
                boot += 1
                desired = await said(stack, good_report(lane_pb.Lease(), hostile.random, boot))
                assert desired is not None
                if task_id:
                    await stack.clients.CancelTask(admission_service_pb2.CancelTaskRequest(task_id=task_id), timeout=5)
                task_id = (await accepted_task(stack)).task_id
                await serves_all(stack, task_id)
        assert 0 < refused < rounds
