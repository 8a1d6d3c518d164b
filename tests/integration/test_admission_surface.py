"""What clients and operators may rely on beyond one call: keys, replay by sequence, an operator's word; with the real engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from runtime.rpc import create_channel
from runtime.submitter import ChannelLine, Patience, Submitter
from tests.harness.admission_process import start_admission
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


def _keyed(key: str = "k1", *, abandon: bool = False, prompt: str = "a lake", owner: str = "") -> pb.SubmitTaskRequest:
    message = submission(owner)
    message.request.prompt, message.request_id, message.abandon = prompt, key, abandon
    return message


async def _stored_events(stack: Stack, **filters: object) -> list[task_pb2.TaskEvent]:
    request = operator_service_pb2.WatchEventsRequest(no_follow=True, **filters)  # type: ignore[arg-type]
    return [event async for page in stack.operators.WatchEvents(request, timeout=5) for event in page.events]


async def test_task_is_the_same_when_owner_key_and_request_are(stack: Stack) -> None:
    lane = await ready_lane(stack)

    answers = [await stack.clients.SubmitTask(_keyed(), timeout=5) for _ in range(2)]
    other = await stack.clients.SubmitTask(_keyed(owner="session:2"), timeout=5)
    refused = await error_of(stack.clients.SubmitTask(_keyed(prompt="a hill"), timeout=5))

    assert [answer.is_duplicate for answer in answers] == [False, True]
    # The seed was chosen by admission, once.
    assert (answers[0].task.task_id, answers[0].task.request) == (answers[1].task.task_id, answers[1].task.request)
    assert (other.is_duplicate, other.task.task_id != answers[0].task.task_id) == (False, True)
    assert (refused.code, [one.field for one in refused.violations]) == ("validation_error", ["request_id"])
    lane.call.cancel()


async def test_second_caller_joins_when_the_first_is_held(stack: Stack) -> None:
    held = [asyncio.ensure_future(stack.clients.SubmitTask(_keyed(), timeout=60)) for _ in range(3)]
    await until(lambda: degraded_depth_is(stack, 1))

    lane = await ready_lane(stack)
    answers = await asyncio.gather(*held)

    assert len({answer.task.task_id for answer in answers}) == 1
    assert sorted(answer.is_duplicate for answer in answers) == [False, True, True]
    lane.call.cancel()


async def test_place_is_free_again_when_every_caller_of_a_key_hangs_up(stack: Stack) -> None:
    calls = [stack.clients.SubmitTask(_keyed(abandon=True), timeout=60) for _ in range(2)]
    codes = [asyncio.ensure_future(call.code()) for call in calls]
    await until(lambda: degraded_depth_is(stack, 1))

    calls[0].cancel()
    await codes[0]
    assert await degraded_depth_is(stack, 1)
    calls[1].cancel()
    await codes[1]

    await until(lambda: degraded_depth_is(stack, 0))


async def test_wait_ends_sooner_when_the_request_was_held_before(stack: Stack) -> None:
    message = _keyed()
    message.waited.FromSeconds(20)
    held = asyncio.ensure_future(error_of(stack.clients.SubmitTask(message, timeout=60)))
    await until(lambda: degraded_depth_is(stack, 1))

    stack.clock.advance(10)
    stack.engine.tick()
    error = await held

    assert (error.code, error.metadata["cause"], error.metadata["waited_s"]) == ("queue_overloaded", "wait", "30.000")


async def test_every_event_of_a_task_is_told_once_when_its_watch_is_resumed(stack: Stack) -> None:
    lane = await ready_lane(stack)
    task_id = (await accepted_task(stack)).task_id
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    first = stack.clients.WatchTask(pb.WatchTaskRequest(task_id=task_id), timeout=30)
    seen: list[task_pb2.TaskEvent] = []
    last = 0
    while not any(event.event_type == "attempt_started" for event in seen):
        answer = await first.read()
        assert isinstance(answer, pb.WatchTaskResponse)
        seen += answer.events
        last = answer.last_sequence
    first.cancel()

    await render(stack, lane, lease, b"video")
    resumed = stack.clients.WatchTask(pb.WatchTaskRequest(task_id=task_id, after_sequence=last), timeout=30)
    seen += [event async for answer in resumed for event in answer.events]

    sequences = [event.sequence for event in seen]
    assert sequences == sorted(set(sequences))
    assert [event.sequence for event in await _stored_events(stack, task_id=task_id)] == sequences
    assert {"accepted", "attempt_started", "memory_record"} <= {event.event_type for event in seen}
    lane.call.cancel()


async def test_watch_goes_on_without_a_gap_when_its_stream_is_recycled(tmp_path: Path) -> None:
    async with admission_stack(tmp_path, stream_life_s=0.02) as stack:
        lane = await ready_lane(stack)
        after, recycled = 0, 0
        names: list[str] = []
        for _ in range(3):
            await accepted_task(stack)
        while names.count("accepted") < 3 or recycled < 2:
            stream = stack.operators.WatchEvents(operator_service_pb2.WatchEventsRequest(after_sequence=after), timeout=5)
            try:
                async for page in stream:
                    names += [event.event_type for event in page.events]
                    after = page.last_sequence
            except grpc.aio.AioRpcError as error:
                recycled += error.code() is grpc.StatusCode.ABORTED
        stored = await _stored_events(stack)
        lane.call.cancel()

    assert [event.event_type for event in stored][: len(names)] == names


async def test_only_new_events_are_told_when_they_are_asked_for(stack: Stack) -> None:
    lane = await ready_lane(stack)
    await accepted_task(stack)
    request = operator_service_pb2.WatchEventsRequest(only_new=True, event_types=["accepted"])
    stream = stack.operators.WatchEvents(request, timeout=10)
    begins = await stream.read()
    assert isinstance(begins, operator_service_pb2.WatchEventsResponse)

    new = await accepted_task(stack)
    events: list[task_pb2.TaskEvent] = []
    while not events:
        page = await stream.read()
        assert isinstance(page, operator_service_pb2.WatchEventsResponse)
        events += page.events

    assert not begins.events
    assert [(event.task_id, event.sequence > begins.last_sequence) for event in events] == [(new.task_id, True)]
    stream.cancel()
    lane.call.cancel()


async def test_lane_gets_nothing_until_it_is_resumed_when_it_is_drained(stack: Stack) -> None:
    lane = await ready_lane(stack)
    drained = (await stack.operators.DrainLane(operator_service_pb2.DrainLaneRequest(lane_id="lane-anisora"), timeout=5)).lane
    await lane.wish(lambda desired: desired.drain)
    held = asyncio.ensure_future(accepted_task(stack))
    await until(lambda: degraded_depth_is(stack, 1))

    resume = operator_service_pb2.DrainLaneRequest(lane_id="lane-anisora", resume=True)
    resumed = (await stack.operators.DrainLane(resume, timeout=5)).lane
    wish = await lane.wish(lambda desired: desired.HasField("lease"))

    assert (drained.drained, resumed.drained) == (True, False)
    assert (await held).task_id == wish.lease.task_id
    assert {"lane_drained", "lane_resumed"} <= {event.event_type for event in await _stored_events(stack, lane_id="lane-anisora")}
    lane.call.cancel()


async def test_lane_is_not_found_when_none_of_that_name_was_ever_seen(stack: Stack) -> None:
    request = operator_service_pb2.DrainLaneRequest(lane_id="lane-x")

    assert (await error_of(stack.operators.DrainLane(request, timeout=5))).code == "lane_not_found"


async def test_requests_go_to_the_pool_when_an_operator_sends_the_model_there(stack: Stack) -> None:
    lane = await ready_lane(stack)
    on = operator_service_pb2.SetFallbackRequest(model="anisora", enabled=True)
    queue = (await stack.operators.SetFallback(on, timeout=5)).queue
    held = asyncio.ensure_future(accepted_task(stack))
    await until(lambda: degraded_depth_is(stack, 1))

    off = operator_service_pb2.SetFallbackRequest(model="anisora", enabled=False)
    afterwards = (await stack.operators.SetFallback(off, timeout=5)).queue
    await held

    assert (queue.manual_fallback, queue.fallback_reason) == (True, task_pb2.FALLBACK_REASON_MANUAL)
    assert (afterwards.manual_fallback, afterwards.fallback_reason) == (False, task_pb2.FALLBACK_REASON_UNSPECIFIED)
    lane.call.cancel()


async def test_reason_is_quota_until_it_is_restored_when_the_quota_was_denied(stack: Stack) -> None:
    denied = operator_service_pb2.ReportCapacityRequest(model="anisora", capacity=operator_service_pb2.CAPACITY_DENIED, reason="none left")
    denied.valid_for.FromSeconds(600)
    restored = operator_service_pb2.ReportCapacityRequest(model="anisora", capacity=operator_service_pb2.CAPACITY_RESTORED)

    before = (await stack.operators.ReportCapacity(denied, timeout=5)).queue
    after = (await stack.operators.ReportCapacity(restored, timeout=5)).queue

    assert (before.fallback_reason, before.HasField("quota_denied_until")) == (task_pb2.FALLBACK_REASON_QUOTA, True)
    assert (after.fallback_reason, after.HasField("quota_denied_until")) == (task_pb2.FALLBACK_REASON_CAPACITY, False)


async def test_held_request_becomes_one_task_when_admission_is_killed_and_comes_back(tmp_path: Path) -> None:
    first = await start_admission(tmp_path)
    bind = f"127.0.0.1:{await first.port()}"
    second = None
    try:
        async with create_channel(bind) as channel:
            submitter = Submitter(ChannelLine(channel), patience=Patience(), now_s=time.monotonic)
            wanted = generation_pb2.GenerationRequest(model="anisora", prompt="a lake")
            submitting = asyncio.ensure_future(submitter.submit(wanted, "session:1"))
            process = _ProcessView(channel)
            await until(process.holds_one)
            await first.kill()
            second = await start_admission(tmp_path, bind)
            await second.port()
            await until(process.holds_one)
            lane = Lane(DispatchServiceStub(channel).Attach(timeout=60))
            await lane.report()
            task = await asyncio.wait_for(submitting, 10)
            listed = await process.stack.clients.ListTasks(pb.ListTasksRequest(), timeout=5)
            lane.call.cancel()
    finally:
        for one in (first, second):
            if one is not None:
                await one.kill()

    assert [one.task_id for one in listed.tasks] == [task.task_id]


class _ProcessView:
    """Looks at an admission process that may be away."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stack = Stack(engine=None, clock=None, objects=None, channel=channel, port=0)  # type: ignore[arg-type]

    async def holds_one(self) -> bool:
        try:
            return await degraded_depth_is(self.stack, 1)
        except grpc.aio.AioRpcError:
            return False
