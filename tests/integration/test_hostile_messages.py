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
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as lane_pb
from warmlane.lane.v1 import memory_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from admission.store.sql import SqlStore
from runtime.rpc_errors import service_error
from tests.harness.admission_services import Stack, accepted_task, admission_stack, ready_lane
from tests.harness.hostile_messages import Hostile
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


def good_memory() -> memory_pb2.WorkerMemory:
    """What a lane may say of its memory."""
    phase = memory_pb2.PhaseCost(phase="denoise", weights_bytes=2**30, fixed=1e6, per_token=1e5, per_pixel=10.0, modes=["t2v"])
    rung = memory_pb2.Rung(placement="resident", phases=[phase], host_bytes=2**30, pinned_bytes=2**20)
    limits = memory_pb2.DeviceLimits(gpu="tiny", total_bytes=2**36, other_bytes=1, margin_bytes=1, host_bytes=2**36, pinned_limit_bytes=1)
    ladder = memory_pb2.ModelLadder(model="anisora", rungs=[rung], text_to_video_weights="image_to_video_experts")
    return memory_pb2.WorkerMemory(limits=limits, ladders=[ladder])


def good_outcome(lease: lane_pb.Lease, *, is_done: bool) -> lane_pb.Outcome:
    """How a lane may say that an attempt ended."""
    record = generation_pb2.MemoryRecord(
        device="cpu",
        allocated_bytes=1,
        placement="resident",
        text_to_video_weights="image_to_video_experts",
        drift_bytes=1,
        phase_peaks=[generation_pb2.PhasePeak(phase="denoise", peak_bytes=2**31)],
        out_of_memory=[generation_pb2.OutOfMemory(phase="denoise", placement="resident", peak_bytes=1, budget_bytes=2)],
        residency_change=generation_pb2.ResidencyChange(released_model="phr00t", loaded_model="anisora"),
    )
    record.cleanup_duration.FromMilliseconds(5)
    record.measured_at.FromSeconds(1_700_000_000)
    outcome = lane_pb.Outcome(memory=record)
    outcome.render_duration.FromSeconds(12)
    outcome.denoise_duration.FromSeconds(10)
    if is_done:
        keys = {name: f"{lease.artifact_prefix}{name}" for name in ("video.mp4", "preview.jpg")}
        result: dict[str, Any] = {"size_bytes": 1, "sha256": "0" * 64, "width": 16, "height": 16, "num_frames": 5, "fps": 16}
        outcome.result.CopyFrom(
            generation_pb2.Result(video_key=keys["video.mp4"], preview_key=keys["preview.jpg"], media_type="video/mp4", **result)
        )
    else:
        outcome.failure.CopyFrom(generation_pb2.Failure(code="render_failed", message="it broke"))
    return outcome


def good_report(lease: lane_pb.Lease, hostile: Hostile, boot: int) -> lane_pb.LaneReport:
    """What a lane may say, more at once than any lane does."""
    report = lane_pb.LaneReport(
        protocol_version=1,
        lane_id="lane-anisora",
        boot_id=f"boot-{boot}",
        kind=lane_pb.LANE_KIND_DEDICATED,
        models=["anisora"],
        resident_model="anisora",
        warm=True,
        healthy=True,
        reason="all is well",
        device="cpu",
        cold_starts=hostile.random.randrange(5),
        memory=good_memory(),
        load=generation_pb2.LoadProgress(model="anisora", stage="reading", read_bytes=1, total_bytes=2),
        start_failure=generation_pb2.StartFailure(cause=generation_pb2.START_FAILURE_CAUSE_OTHER, reason="no", attempts=1),
    )
    if lease.task_id:
        work = report.work
        work.task_id, work.attempt, work.progress, work.detail = lease.task_id, lease.attempt, 10, "step 1 of 8"
        work.phase = lane_pb.WORK_PHASE_INFERENCE
        if hostile.random.random() < 0.5:
            work.phase = lane_pb.WORK_PHASE_ENDED
            work.outcome.CopyFrom(good_outcome(lease, is_done=hostile.random.random() < 0.5))
    return report


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
            desired = await said(stack, hostile.spoiled(good_report(lease, hostile, boot)))
            refused += desired is None
            lease = desired.lease if desired is not None and desired.HasField("lease") else lease
            if number % 10 == 0:
                # Well said again, by a new process of the lane: it takes work, and what was learned of the nonsense refuses nobody.
                boot += 1
                desired = await said(stack, good_report(lane_pb.Lease(), hostile, boot))
                assert desired is not None
                if task_id:
                    await stack.clients.CancelTask(admission_service_pb2.CancelTaskRequest(task_id=task_id), timeout=5)
                task_id = (await accepted_task(stack)).task_id
                await serves_all(stack, task_id)
        assert 0 < refused < rounds
