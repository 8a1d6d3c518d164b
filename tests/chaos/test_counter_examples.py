"""What went wrong in other systems (docs/loss-free.md names each), tried on a real admission: with lanes by hand, and with real ones."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2

from tests.harness.callers import ACCEPTED, GrpcCaller
from tests.harness.light_stack import ADMISSION, LightStack, signal_process
from tests.harness.scripted_lane import ScriptedLane, done, working

_LANE = "lane-anisora"
_ENDED = (task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightStack]:
    """Admission and a real lane of anisora; phr00t is served by the lanes that tests play."""
    with LightStack(tmp_path_factory.mktemp("light"), processes=(ADMISSION, _LANE)) as running:
        yield running


def _lane(stack: LightStack, boot_id: str, lane_id: str = "lane-by-hand") -> ScriptedLane:
    return ScriptedLane(stack.grpc_address, model="phr00t", lane_id=lane_id, boot_id=boot_id)


def _ends(task: task_pb2.Task) -> list[tuple[str, int]]:
    return [(event.value, event.attempt) for event in task.events if event.event_type == "attempt_ended"]


def _is_done(task: task_pb2.Task) -> bool:
    assert task.state not in (task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED), task
    return task.state == task_pb2.TASK_STATE_DONE


def _is_in_second_attempt(task: task_pb2.Task) -> bool:
    return task.attempt == 2 and task.stage == task_pb2.STAGE_INFERENCE


async def _cancel(caller: GrpcCaller, task_id: str) -> task_pb2.Task:
    return (await caller.admission.CancelTask(pb.CancelTaskRequest(task_id=task_id), timeout=10)).task


async def _ready(caller: GrpcCaller, model: str) -> None:
    """A lane of the model is ready: requests are accepted at once."""
    async with asyncio.timeout(15):
        while not any(queue.model == model and queue.served for queue in (await caller.snapshot()).queues):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_zombie_cannot_renew_or_overwrite_when_its_lane_id_has_a_new_boot(stack: LightStack) -> None:
    # aegra PR #547: with a stable worker name the zombie's heartbeat renews the new lease and its result overwrites the new one.
    async with GrpcCaller(stack) as caller, _lane(stack, "boot-1") as zombie:
        await _ready(caller, "phr00t")
        task_id = (await caller.ask(model="phr00t")).task_id
        old = await zombie.take_lease()
        async with _lane(stack, "boot-2") as lane:
            new = await lane.take_lease()
            assert (old.task_id, old.attempt, new.task_id, new.attempt) == (task_id, 1, task_id, 2)
            late = done(old, stack.objects)
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await zombie.report(late)
            # Its stream was ended; it dials again, as the zombie that it is, and says the same.
            async with _lane(stack, "boot-1") as again:
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await again.report(late)
                    await again.report(late)
                assert (await caller.task(task_id)).state == task_pb2.TASK_STATE_LEASED
                assert (await caller.task(task_id)).attempt == 2
            await lane.report(done(new, stack.objects))
            task = await caller.until(task_id, _is_done)
            await lane.report(None)
    assert task.result.video_key == f"results/{task_id}/2/video.mp4"
    assert _ends(task) == [("done", 2)]


async def test_late_result_is_refused_when_the_attempt_ran_elsewhere_meanwhile(stack: LightStack) -> None:
    # NATS JetStream: the ack of the first consumer, whose time was over, is still accepted.
    async with GrpcCaller(stack) as caller, _lane(stack, "boot-3") as first:
        await _ready(caller, "phr00t")
        task_id = (await caller.ask(model="phr00t")).task_id
        old = await first.take_lease()
        # It says that it does not work on it and takes nothing more: the task goes to the other lane.
        async with _lane(stack, "boot-1", "lane-elsewhere") as second:
            first.is_draining = True
            await first.report(None)
            lease = (await second.until(lambda wish: wish.HasField("lease"))).lease
            assert (lease.task_id, lease.attempt) == (task_id, 2)
            await second.report(working(lease))
            await first.report(done(old, stack.objects))
            refused = await first.until(lambda wish: wish.acknowledged.attempt == old.attempt and wish.acknowledged.task_id == task_id)
            assert not refused.HasField("lease")
            assert (await caller.task(task_id)).state == task_pb2.TASK_STATE_LEASED
            await first.report(None)
            await second.report(done(lease, stack.objects))
            task = await caller.until(task_id, _is_done)
            await second.report(None)
    assert _ends(task) == [("done", 2)]
    assert [event.attempt for event in task.events if event.event_type == "attempt_refused"] == [1]
    await _until_gone(stack.objects / "results" / task_id / "1" / "video.mp4")
    assert (stack.objects / "results" / task_id / "2" / "video.mp4").exists()


async def test_result_is_committed_once_when_the_lane_repeats_it(stack: LightStack) -> None:
    # Cog #2454: a duplicate PUT crashed the worker.
    async with GrpcCaller(stack) as caller, _lane(stack, "boot-4") as lane:
        await _ready(caller, "phr00t")
        task_id = (await caller.ask(model="phr00t")).task_id
        lease = await lane.take_lease()
        for _ in range(5):
            await lane.report(done(lease, stack.objects))
        await lane.until(lambda wish: wish.acknowledged.task_id == task_id)
        await lane.report(done(lease, stack.objects))
        await lane.report(None)
        task = await caller.until(task_id, _is_done)
        assert (await caller.ask(model="phr00t")).code == ACCEPTED, "the lane goes on"
        await lane.report(done(await lane.take_lease(), stack.objects))
        await lane.until(lambda wish: wish.acknowledged.task_id != task_id)
        await lane.report(None)
    assert _ends(task) == [("done", 1)]
    assert len([event for event in task.events if event.event_type == "memory_record"]) == 1


async def test_repeated_request_is_one_task_when_the_first_reply_was_lost_in_a_kill(stack: LightStack) -> None:
    # Cog #914: a POST that timed out was accepted all the same; tried again, it failed as busy.
    async with GrpcCaller(stack) as caller:
        await _ready(caller, "anisora")
        asked = [asyncio.create_task(caller.ask("takes 0.1", owner="me", request_id="lost")) for _ in range(3)]
        await asyncio.sleep(0.02)
        stack.restart(ADMISSION)
        await caller.until_serving()
        await _ready(caller, "anisora")
        answers = [*await asyncio.gather(*asked), *[await caller.ask("takes 0.1", owner="me", request_id="lost") for _ in range(3)]]
        ids = {answer.task_id for answer in answers if answer.code == ACCEPTED}
        assert len(ids) == 1
        assert (await caller.ask("another", owner="me", request_id="lost")).code == "validation_error"
        assert (await caller.ask("another", owner="you", request_id="lost")).code == ACCEPTED, "a key belongs to its owner"
        await caller.until(ids.pop(), _is_done)


async def test_cancelled_task_stays_cancelled_when_admission_is_killed_right_after(stack: LightStack) -> None:
    # SamSaffron/term-llm #305: recovery brought a cancelled job back. BuildGrid #149, #400: the cancel was never sent to the worker.
    async with GrpcCaller(stack) as caller:
        await _ready(caller, "anisora")
        task_id = (await caller.ask("steps")).task_id
        await caller.until(task_id, lambda task: task.stage == task_pb2.STAGE_INFERENCE)
        cancelling = asyncio.create_task(_cancel(caller, task_id))
        assert (await cancelling).state == task_pb2.TASK_STATE_CANCELLED
        stack.restart(ADMISSION)
        await caller.until_serving()
        # The lane hears of it through the new admission: it is free for the next.
        following = (await caller.ask("takes 0.1")).task_id
        await caller.until(following, _is_done)
        task = await caller.task(task_id)
    assert (task.state, task.attempt) == (task_pb2.TASK_STATE_CANCELLED, 1)


async def test_running_task_goes_on_when_a_queued_one_is_cancelled(stack: LightStack) -> None:
    # InvokeAI #7414: cancelling a queued item killed the running one.
    async with GrpcCaller(stack) as caller:
        await _ready(caller, "anisora")
        running = (await caller.ask("takes 1.5")).task_id
        queued = [(await caller.ask("takes 0.1")).task_id for _ in range(2)]
        await caller.until(running, lambda task: task.stage == task_pb2.STAGE_INFERENCE)
        assert (await _cancel(caller, queued[0])).state == task_pb2.TASK_STATE_CANCELLED
        for task_id in (running, queued[1]):
            assert (await caller.until(task_id, _is_done)).attempt == 1
        assert (await caller.task(queued[0])).attempt == 0


async def test_task_never_reads_as_done_without_its_result_when_everything_dies_under_it(stack: LightStack) -> None:
    # artokun/comfyui-mcp #2507: a job lost in a restart reads as done.
    async with GrpcCaller(stack) as caller:
        await _ready(caller, "anisora")
        task_id = (await caller.ask("takes 1.5")).task_id
        await caller.until(task_id, lambda task: task.stage == task_pb2.STAGE_INFERENCE)
        pipeline = stack.pipeline_pid(_LANE)
        for name in (ADMISSION, _LANE):
            stack.kill(name)
        signal_process(pipeline, signal.SIGKILL)
        ends_s = time.monotonic() + 30
        while True:
            assert time.monotonic() < ends_s
            try:
                task = await caller.task(task_id)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
                continue
            assert task.state in (task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_LEASED, task_pb2.TASK_STATE_DONE)
            assert task.HasField("result") == (task.state == task_pb2.TASK_STATE_DONE)
            if task.state == task_pb2.TASK_STATE_DONE:
                break
            await asyncio.sleep(0.01)
    assert (stack.objects / task.result.video_key).stat().st_size == task.result.size_bytes
    assert task.attempt == 2


async def test_waiting_room_is_empty_at_once_when_all_its_callers_are_dead(stack: LightStack) -> None:
    # ray PR #21438: dead requests clog the queue. SGLang #33858: what is over the bound hangs for ever while the health is fine.
    async with GrpcCaller(stack) as caller:
        calls = [asyncio.create_task(caller.ask(model="phr00t")) for _ in range(25)]
        await caller.until_held(25)
        assert (await asyncio.wait_for(caller.ask(model="phr00t"), 2)).cause == "depth"
        for call in calls:
            call.cancel()
        left_s = time.monotonic()
        await caller.until_held(0)
        assert time.monotonic() - left_s < 0.5
        # A lane that gets ready now finds nothing to do for them.
        async with _lane(stack, "boot-5") as lane:
            await _ready(caller, "phr00t")
            assert not lane.wish.HasField("lease")
            task_id = (await caller.ask(model="phr00t")).task_id
            assert (await lane.take_lease()).task_id == task_id
            await lane.report(done(lane.wish.lease, stack.objects))
            await caller.until(task_id, _is_done)
            await lane.report(None)


@pytest.mark.long
async def test_result_of_a_stopped_lane_is_refused_when_its_lease_ran_out_meanwhile(tmp_path: Path) -> None:
    # The zombie with real processes: the lane's agent is stopped for longer than a lease, while its pipeline renders on.
    stack = LightStack(tmp_path, processes=(ADMISSION, _LANE, "degraded-pool"))
    try:
        await asyncio.to_thread(stack.__enter__)
        async with GrpcCaller(stack) as caller:
            task_id = (await caller.ask("waits")).task_id
            await caller.until(task_id, lambda task: task.stage == task_pb2.STAGE_INFERENCE)
            agent = stack.pid(_LANE)
            signal_process(agent, signal.SIGSTOP)
            assert (await caller.until(task_id, _is_in_second_attempt, timeout_s=90)).lane_id == "degraded-pool"
            (stack.folder / "models" / "go").touch()
            task = await caller.until(task_id, _is_done)
            results = stack.objects / "results" / task_id
            await asyncio.to_thread(stack.until, (results / "1" / "video.mp4").exists, 10, "the stopped lane's pipeline did not end")
            signal_process(agent, signal.SIGCONT)
            await _until_gone(results / "1" / "video.mp4")
            # The lane is free for the next; the committed result is as it was.
            await caller.until((await caller.ask("takes 0.1")).task_id, _is_done)
            assert (await caller.task(task_id)).result == task.result
    finally:
        await asyncio.to_thread(stack.stop)
    assert _ends(task) == [("done", 2)]
    assert (results / "2" / "video.mp4").exists()
    assert stack.unexpected_exits() == ()


async def test_older_admission_rules_no_more_when_a_newer_one_took_its_database(tmp_path: Path) -> None:
    # An overlapping deployment: two controllers on one store both hand out work.
    older = LightStack(tmp_path / "older", processes=(ADMISSION,))
    newer = LightStack(tmp_path / "newer", processes=(ADMISSION,), database=older.database, objects=older.objects)
    try:
        await asyncio.to_thread(older.__enter__)
        async with GrpcCaller(older) as old, ScriptedLane(older.grpc_address, model="phr00t", lane_id="l", boot_id="b") as lane:
            await _ready(old, "phr00t")
            task_id = (await old.ask(model="phr00t", request_id="one")).task_id
            lease = await lane.take_lease()
            older.leave_down(ADMISSION)
            await asyncio.to_thread(newer.__enter__)
            assert (await old.ask(model="phr00t", request_id="two")).code == "service_unavailable", "it accepts nothing more"
            await asyncio.to_thread(older.until, lambda: older.pid(ADMISSION) is None, 10, "the older admission does not end")
        async with GrpcCaller(newer) as caller, ScriptedLane(newer.grpc_address, model="phr00t", lane_id="l", boot_id="b") as lane:
            await lane.report(done(lease, newer.objects))
            assert _ends(await caller.until(task_id, _is_done)) == [("done", 1)]
            assert (await caller.admission.ListTasks(pb.ListTasksRequest(), timeout=10)).total == 1
    finally:
        older.stop()
        newer.stop()


async def _until_gone(path: Path) -> None:
    async with asyncio.timeout(10):
        while path.exists():  # noqa: ASYNC110, ASYNC240 (another process removes it)
            await asyncio.sleep(0.05)
