"""Services, engine and store together over real gRPC; and the admission process as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc.aio
import obstore
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from admission.service.mount import NAMES
from runtime.rpc import create_channel
from tests.harness.admission_process import Admission, start_admission
from tests.harness.admission_services import (
    Lane,
    Stack,
    accepted_task,
    admission_stack,
    degraded_depth_is,
    error_of,
    ready_lane,
    render,
    submission,
    until,
)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Serves with a store in memory and a clock that the test moves."""
    async with admission_stack(tmp_path) as stack:
        yield stack


async def test_task_goes_the_whole_way_when_a_lane_is_ready(stack: Stack) -> None:
    lane = await ready_lane(stack)

    accepted = (await stack.clients.SubmitTask(submission(), timeout=5)).task
    watch = stack.clients.WatchTask(pb.WatchTaskRequest(task_id=accepted.task_id), timeout=30)
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    await render(stack, lane, lease, b"video")
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
    lane = await ready_lane(stack)
    accepted = (await stack.clients.SubmitTask(submission(), timeout=5)).task
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    await render(stack, lane, lease, b"video")
    await lane.wish(lambda desired: desired.HasField("acknowledged"))

    await stack.clients.DeleteTask(pb.DeleteTaskRequest(task_id=accepted.task_id), timeout=5)

    assert (await error_of(stack.clients.GetTask(pb.GetTaskRequest(task_id=accepted.task_id), timeout=5))).code == "task_not_found"

    async def files_are_gone() -> bool:
        return not [one async for batch in obstore.list(stack.objects) for one in batch]

    await until(files_are_gone)
    lane.call.cancel()


async def test_cancel_gives_the_same_answer_twice_when_a_task_waits(stack: Stack) -> None:
    lane = await ready_lane(stack)
    accepted = (await stack.clients.SubmitTask(submission(), timeout=5)).task
    request = pb.CancelTaskRequest(task_id=accepted.task_id)

    answers = [(await stack.clients.CancelTask(request, timeout=5)).task for _ in range(2)]

    assert [answer.state for answer in answers] == [task_pb2.TASK_STATE_CANCELLED] * 2
    assert answers[0] == answers[1]
    assert answers[0].failure.code == "cancelled"
    lane.call.cancel()


async def test_26th_is_refused_by_depth_and_the_others_by_wait_when_no_lane_is_there(stack: Stack) -> None:
    held = [asyncio.ensure_future(error_of(stack.clients.SubmitTask(submission(f"owner-{n}"), timeout=60))) for n in range(25)]
    await until(lambda: degraded_depth_is(stack, 25))

    refused = await error_of(stack.clients.SubmitTask(submission(), timeout=5))
    stack.clock.advance(30)
    stack.engine.tick()
    waited = await asyncio.gather(*held)

    assert (refused.code, refused.metadata["cause"], refused.metadata["depth"]) == ("queue_overloaded", "depth", "25")
    assert {(error.code, error.metadata["cause"], error.metadata["waited_s"]) for error in waited} == {
        ("queue_overloaded", "wait", "30.000")
    }
    assert await degraded_depth_is(stack, 0)


async def test_place_is_free_again_when_a_held_caller_hangs_up(stack: Stack) -> None:
    call = stack.clients.SubmitTask(submission(), timeout=60)
    code = asyncio.ensure_future(call.code())
    await until(lambda: degraded_depth_is(stack, 1))

    call.cancel()

    await until(lambda: degraded_depth_is(stack, 0))
    await code


async def test_held_request_is_accepted_when_a_lane_becomes_ready(stack: Stack) -> None:
    held = asyncio.ensure_future(accepted_task(stack))
    await until(lambda: degraded_depth_is(stack, 1))

    lane = await ready_lane(stack)

    assert (await held).state in (task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_LEASED)
    lane.call.cancel()


async def test_older_stream_is_aborted_when_a_newer_one_of_the_lane_opens(stack: Stack) -> None:
    older = await ready_lane(stack)

    newer = await ready_lane(stack)

    async def read_on() -> None:
        await older.wish(lambda desired: False)

    assert (await error_of(read_on())).code == "session_ended"
    [shown] = (await stack.snapshot()).lanes
    assert shown.availability == operator_service_pb2.AVAILABILITY_READY
    newer.call.cancel()


Start = Callable[[str], Awaitable[Admission]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts admission processes on one data folder; ends them after the test."""
    started: list[Admission] = []

    async def run(bind: str) -> Admission:
        started.append(await start_admission(tmp_path, bind))
        return started[-1]

    yield run
    for one in started:
        await one.kill()


async def _health(channel: grpc.aio.Channel, service: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return cast("int", (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status)


async def test_process_serves_and_stops_with_0_when_it_is_told_to(start: Start) -> None:
    admission = await start("127.0.0.1:0")
    async with create_channel(f"127.0.0.1:{await admission.port()}") as channel:
        health = {await _health(channel, service) for service in ("", *NAMES)}
        held = asyncio.ensure_future(error_of(AdmissionServiceStub(channel).SubmitTask(submission(), timeout=60)))
        snapshots = OperatorServiceStub(channel)

        async def is_held() -> bool:
            return (await snapshots.GetSnapshot(operator_service_pb2.GetSnapshotRequest(), timeout=5)).degraded.held == 1

        await until(is_held)
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
        accepted = (await AdmissionServiceStub(channel).SubmitTask(submission(), timeout=5)).task
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
