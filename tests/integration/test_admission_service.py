"""Services, engine and store together over real gRPC; and the admission process as a whole."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
import obstore
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from admission.engine import Engine
from admission.service.doors import Doors
from admission.service.errors import translate
from admission.service.mount import NAMES, services
from admission.store.memory import MemoryStore
from runtime.errors import ServiceError
from runtime.objects import open_object_store
from runtime.rpc import GrpcServer, create_channel, service_error
from tests.harness.clock import FakeClock

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceAsyncStub

Call = grpc.aio.StreamStreamCall[dispatch_service_pb2.AttachRequest, dispatch_service_pb2.AttachResponse]
PATIENCE_S = 10.0


@dataclass
class Stack:
    """A running admission, but for its process."""

    engine: Engine
    clock: FakeClock
    objects: ObjectStore
    channel: grpc.aio.Channel

    @property
    def clients(self) -> AdmissionServiceAsyncStub:
        return AdmissionServiceStub(self.channel)

    async def snapshot(self) -> operator_service_pb2.GetSnapshotResponse:
        return await OperatorServiceStub(self.channel).GetSnapshot(operator_service_pb2.GetSnapshotRequest(), timeout=5)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Serves with a store in memory and a clock that the test moves."""
    clock, doors, store = FakeClock(), Doors(), MemoryStore()
    objects = open_object_store((tmp_path / "objects").as_uri())
    await store.open()
    engine = Engine(store=store, clock=clock, objects=objects)
    await engine.start()
    mounted = services(controller=engine, sessions=store, objects=objects, clock=clock, doors=doors)
    server = GrpcServer("127.0.0.1:0", mounted, translate=translate)
    await server.start()
    doors.open()
    async with create_channel(f"127.0.0.1:{server.port}") as channel:
        yield Stack(engine, clock, objects, channel)
    doors.close()
    await server.stop(0)
    await engine.stop()
    await store.close()


class Lane:
    """A lane of anisora, as far as admission sees one."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._seen = 0

    async def report(self, work: dispatch_service_pb2.Work | None = None) -> None:
        report = dispatch_service_pb2.LaneReport(
            protocol_version=1,
            lane_id="lane-anisora",
            boot_id="boot-1",
            kind=dispatch_service_pb2.LANE_KIND_DEDICATED,
            models=["anisora"],
            seen_sequence=self._seen,
            warm=True,
            healthy=True,
            resident_model="anisora",
            work=work,
        )
        await self.call.write(dispatch_service_pb2.AttachRequest(report=report))

    async def wish(self, fits: Callable[[dispatch_service_pb2.DesiredState], bool]) -> dispatch_service_pb2.DesiredState:
        """The first wish that fits."""
        while True:
            answer = await self.call.read()
            assert isinstance(answer, dispatch_service_pb2.AttachResponse)
            self._seen = answer.desired.sequence
            if fits(answer.desired):
                return answer.desired


def _lane(stack: Stack) -> Lane:
    return Lane(DispatchServiceStub(stack.channel).Attach(timeout=60))


def _submit(owner: str = "") -> pb.SubmitTaskRequest:
    return pb.SubmitTaskRequest(request=generation_pb2.GenerationRequest(model="anisora", prompt="a lake"), owner=owner)


async def _error(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        # What is waited for happens behind gRPC: there is no event to wait on here.
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _degraded_depth_is(stack: Stack, depth: int) -> bool:
    return (await stack.snapshot()).degraded.depth == depth


async def _ready_lane(stack: Stack) -> Lane:
    lane = _lane(stack)
    await lane.report()
    await lane.wish(lambda desired: True)
    return lane


async def _render(stack: Stack, lane: Lane, lease: dispatch_service_pb2.Lease, content: bytes) -> None:
    """Stores the files and says so."""
    keys = {name: f"{lease.artifact_prefix}{name}" for name in ("video.mp4", "preview.jpg")}
    for key in keys.values():
        await obstore.put_async(stack.objects, key, content)
    result = generation_pb2.Result(
        video_key=keys["video.mp4"],
        preview_key=keys["preview.jpg"],
        media_type="video/mp4",
        size_bytes=len(content),
        sha256="0" * 64,
        width=lease.request.width,
        height=lease.request.height,
        num_frames=lease.request.num_frames,
        fps=lease.request.fps,
    )
    outcome = dispatch_service_pb2.Outcome(result=result, memory=generation_pb2.MemoryRecord(device="cpu", host_rss_after_bytes=1))
    await lane.report(
        dispatch_service_pb2.Work(
            task_id=lease.task_id,
            attempt=lease.attempt,
            phase=dispatch_service_pb2.WORK_PHASE_ENDED,
            progress=100,
            outcome=outcome,
        )
    )


async def test_task_goes_the_whole_way_when_a_lane_is_ready(stack: Stack) -> None:
    lane = await _ready_lane(stack)

    accepted = (await stack.clients.SubmitTask(_submit(), timeout=5)).task
    watch = stack.clients.WatchTask(pb.WatchTaskRequest(task_id=accepted.task_id), timeout=30)
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    await _render(stack, lane, lease, b"video")
    acknowledged = (await lane.wish(lambda desired: desired.HasField("acknowledged"))).acknowledged
    states = [answer.task.state async for answer in watch]
    task = (await stack.clients.GetTask(pb.GetTaskRequest(task_id=accepted.task_id), timeout=5)).task
    read = [answer async for answer in stack.clients.ReadResult(pb.ReadResultRequest(task_id=accepted.task_id), timeout=5)]

    # 1280 and 720 are multiples of 16, 81 is 8k+1: the defaults are used as they are. The seed was chosen.
    assert (lease.request.width, lease.request.height, lease.request.num_frames, lease.request.seed >= 0) == (720, 1280, 81, True)
    assert lease.request == accepted.request
    assert (acknowledged.task_id, acknowledged.attempt) == (accepted.task_id, 1)
    assert (states[-1], task.state) == (task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_DONE)
    assert (task.lane_mode, task.lane_id, task.attempt) == (task_pb2.LANE_MODE_DEDICATED, "lane-anisora", 1)
    assert any(event.event_type == "memory_record" and event.memory.device == "cpu" for event in task.events)
    assert b"".join(answer.chunk for answer in read) == b"video"
    lane.call.cancel()


async def test_task_and_its_files_are_gone_when_it_is_deleted(stack: Stack) -> None:
    lane = await _ready_lane(stack)
    accepted = (await stack.clients.SubmitTask(_submit(), timeout=5)).task
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    await _render(stack, lane, lease, b"video")
    await lane.wish(lambda desired: desired.HasField("acknowledged"))

    await stack.clients.DeleteTask(pb.DeleteTaskRequest(task_id=accepted.task_id), timeout=5)

    assert (await _error(stack.clients.GetTask(pb.GetTaskRequest(task_id=accepted.task_id), timeout=5))).code == "task_not_found"

    async def files_are_gone() -> bool:
        return not [one async for batch in obstore.list(stack.objects) for one in batch]

    await _until(files_are_gone)
    lane.call.cancel()


async def test_cancel_gives_the_same_answer_twice_when_a_task_waits(stack: Stack) -> None:
    lane = await _ready_lane(stack)
    accepted = (await stack.clients.SubmitTask(_submit(), timeout=5)).task
    request = pb.CancelTaskRequest(task_id=accepted.task_id)

    answers = [(await stack.clients.CancelTask(request, timeout=5)).task for _ in range(2)]

    assert [answer.state for answer in answers] == [task_pb2.TASK_STATE_CANCELLED] * 2
    assert answers[0] == answers[1]
    assert answers[0].failure.code == "cancelled"
    lane.call.cancel()


async def test_26th_is_refused_by_depth_and_the_others_by_wait_when_no_lane_is_there(stack: Stack) -> None:
    held = [asyncio.ensure_future(_error(stack.clients.SubmitTask(_submit(f"owner-{n}"), timeout=60))) for n in range(25)]
    await _until(lambda: _degraded_depth_is(stack, 25))

    refused = await _error(stack.clients.SubmitTask(_submit(), timeout=5))
    stack.clock.advance(30)
    stack.engine.tick()
    waited = await asyncio.gather(*held)

    assert (refused.code, refused.metadata["cause"], refused.metadata["depth"]) == ("queue_overloaded", "depth", "25")
    assert {(error.code, error.metadata["cause"], error.metadata["waited_s"]) for error in waited} == {
        ("queue_overloaded", "wait", "30.000")
    }
    assert await _degraded_depth_is(stack, 0)


async def test_place_is_free_again_when_a_held_caller_hangs_up(stack: Stack) -> None:
    call = stack.clients.SubmitTask(_submit(), timeout=60)
    code = asyncio.ensure_future(call.code())
    await _until(lambda: _degraded_depth_is(stack, 1))

    call.cancel()

    await _until(lambda: _degraded_depth_is(stack, 0))
    await code


async def test_held_request_is_accepted_when_a_lane_becomes_ready(stack: Stack) -> None:
    held = asyncio.ensure_future(_accepted(stack))
    await _until(lambda: _degraded_depth_is(stack, 1))

    lane = await _ready_lane(stack)

    assert (await held).state in (task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_LEASED)
    lane.call.cancel()


async def test_older_stream_is_aborted_when_a_newer_one_of_the_lane_opens(stack: Stack) -> None:
    older = await _ready_lane(stack)

    newer = await _ready_lane(stack)

    async def read_on() -> None:
        await older.wish(lambda desired: False)

    assert (await _error(read_on())).code == "session_ended"
    [shown] = (await stack.snapshot()).lanes
    assert shown.availability == operator_service_pb2.AVAILABILITY_READY
    newer.call.cancel()


async def _accepted(stack: Stack) -> task_pb2.Task:
    return (await stack.clients.SubmitTask(_submit(), timeout=60)).task


class Admission:
    """The process, started by a test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def port(self) -> int:
        """Where it serves, once it does."""
        line: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE_S * 3):
            while line.get("event") != "serving":
                line = json.loads(await self.stderr().readline())
        return cast("int", line["port"])

    def stderr(self) -> asyncio.StreamReader:
        assert self.process.stderr is not None
        return self.process.stderr

    async def end(self) -> tuple[int, str]:
        """Exit code and what was still said."""
        async with asyncio.timeout(PATIENCE_S * 3):
            said = (await self.stderr().read()).decode()
            return await self.process.wait(), said


Start = Callable[[str], Awaitable[Admission]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts admission processes on one data folder; ends them after the test."""
    started: list[Admission] = []

    async def run(bind: str) -> Admission:
        settings = {
            "WARMLANE_ADMISSION_BIND": bind,
            "WARMLANE_DATABASE_URL": f"sqlite:///{tmp_path / 'admission.db'}",
            "WARMLANE_OBJECT_STORE_URL": (tmp_path / "objects").as_uri(),
            "WARMLANE_LOG_FORMAT": "json",
        }
        command = (sys.executable, "-m", "admission")
        process = await asyncio.create_subprocess_exec(*command, env=os.environ | settings, stderr=asyncio.subprocess.PIPE)
        started.append(Admission(process))
        return started[-1]

    yield run
    for one in started:
        if one.process.returncode is None:
            one.process.kill()
            await one.end()


async def _health(channel: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return cast("int", (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status)


async def test_process_serves_and_stops_with_0_when_it_is_told_to(start: Start) -> None:
    admission = await start("127.0.0.1:0")
    async with create_channel(f"127.0.0.1:{await admission.port()}") as channel:
        health = {await _health(channel, service) for service in ("", *NAMES)}
        held = asyncio.ensure_future(_error(AdmissionServiceStub(channel).SubmitTask(_submit(), timeout=60)))
        snapshots = OperatorServiceStub(channel)

        async def is_held() -> bool:
            return (await snapshots.GetSnapshot(operator_service_pb2.GetSnapshotRequest(), timeout=5)).degraded.held == 1

        await _until(is_held)
        admission.process.terminate()
        refused = await held

    assert health == {health_pb2.HealthCheckResponse.SERVING}
    assert refused.code == "service_unavailable"
    assert (await admission.end())[0] == 0


async def test_accepted_task_is_there_when_the_process_was_killed(start: Start) -> None:
    first = await start("127.0.0.1:0")
    async with create_channel(f"127.0.0.1:{await first.port()}") as channel:
        lane = Lane(DispatchServiceStub(channel).Attach(timeout=60))
        await lane.report()
        await lane.wish(lambda desired: True)
        accepted = (await AdmissionServiceStub(channel).SubmitTask(_submit(), timeout=5)).task
        first.process.kill()
        await first.end()

    second = await start("127.0.0.1:0")
    async with create_channel(f"127.0.0.1:{await second.port()}") as channel:
        request = pb.GetTaskRequest(task_id=accepted.task_id)
        task = (await AdmissionServiceStub(channel).GetTask(request, timeout=5)).task
        snapshot = await OperatorServiceStub(channel).GetSnapshot(operator_service_pb2.GetSnapshotRequest(), timeout=5)

    assert task.state in (task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_LEASED)
    assert task.request == accepted.request
    assert (snapshot.controller_epoch, [lane.lane_id for lane in snapshot.lanes]) == (2, ["lane-anisora"])


async def test_second_process_says_why_and_ends_with_1_when_the_port_is_taken(start: Start) -> None:
    first = await start("127.0.0.1:0")
    bind = f"127.0.0.1:{await first.port()}"

    code, said = await (await start(bind)).end()

    assert code == 1
    assert said.splitlines()[-1] == (
        f"admission: cannot listen on {bind}: another process holds the port, or the address is not of this machine"
    )
    async with create_channel(bind) as channel:
        assert await _health(channel, "") == health_pb2.HealthCheckResponse.SERVING


async def test_process_ends_with_1_when_it_should_listen_for_everyone(start: Start) -> None:
    code, said = await (await start("0.0.0.0:0")).end()

    assert (code, "loopback only" in said) == (1, True)
