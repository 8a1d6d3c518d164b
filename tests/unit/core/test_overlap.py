"""A lane's second place: an attempt that needs the GPU no more is finished beside the next lease."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from admission.core.lanes import Lease, Work
from admission.core.tasks import Failure, FailureCode, LaneId, Stage, TaskId, TaskState
from admission.views import view_lane
from tests.harness.core import ANISORA, DONE, World, failed

LOST = failed(Failure(code=FailureCode.LANE_LOST, message="The object store did not take the files."))


def rig() -> tuple[World, LaneId, TaskId, TaskId]:
    """A lane that finishes the first task and renders the second; a third waits."""
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second, _ = world.submit(), world.submit(), world.submit()
    world.works(lane)
    world.frees_gpu(lane)
    world.works(lane)
    return world, lane, first, second


def rendering(task_id: TaskId, attempt: int = 1, *, gpu_free: bool = False) -> Work:
    """The lane says that it works on this."""
    return Work(task_id=task_id, attempt=attempt, stage=Stage.ENCODING if gpu_free else Stage.INFERENCE, progress=50, gpu_free=gpu_free)


def test_next_task_is_leased_at_once_when_the_gpu_is_free() -> None:
    world, lane, first, second = rig()
    wish = world.wishes[lane]
    assert (wish.finishing, wish.lease) == (Lease(task_id=first, attempt=1), Lease(task_id=second, attempt=1))
    assert (world.task(first).state, world.task(first).stage) == (TaskState.LEASED, Stage.ENCODING)
    assert world.commits == []


def test_nothing_is_leased_beside_it_when_the_lane_does_not_say_that_its_gpu_is_free() -> None:
    # An older lane, or one that was told to do one thing at a time.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.report(lane, work=replace(rendering(first), stage=Stage.ENCODING, progress=95))
    assert world.lease(lane) == Lease(task_id=first, attempt=1)
    assert world.task(second).state is TaskState.QUEUED


def test_both_are_committed_when_both_end_in_one_report() -> None:
    world, lane, first, second = rig()
    world.has_finished(lane, DONE, replace(rendering(second), outcome=failed(Failure(code=FailureCode.RENDER_FAILED, message="no"))))
    assert (world.task(first).state, world.task(second).state) == (TaskState.DONE, TaskState.FAILED)
    wish = world.wishes[lane]
    assert (wish.acknowledged_before, wish.acknowledged) == (Lease(task_id=first, attempt=1), Lease(task_id=second, attempt=1))


def test_result_is_committed_where_it_is_named_when_the_lane_has_not_seen_the_move() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.report(lane, work=rendering(first, gpu_free=True))
    before = world.wishes[lane].sequence - 2
    world.says_ended(lane, first, 1)
    assert world.commits == [(first, 1)]
    assert world.lease(lane) == Lease(task_id=second, attempt=1)
    world.report(lane, work=None, seen=before)
    assert world.task(second).state is TaskState.LEASED


def test_second_one_waits_and_the_lane_gets_nothing_when_the_first_is_still_being_finished() -> None:
    world, lane, first, second = rig()
    world.report(lane, work=rendering(second, gpu_free=True))
    assert world.lease(lane) == Lease(task_id=second, attempt=1)
    world.has_finished(lane, DONE, rendering(second, gpu_free=True))
    wish = world.wishes[lane]
    assert wish.finishing == Lease(task_id=second, attempt=1)
    assert wish.lease is not None
    assert wish.lease.task_id not in (first, second)


def test_time_of_the_second_stands_still_when_it_waits_for_the_first() -> None:
    # 960 s after its lease admission gives a render up. The second waits from 100 s to 800 s: at 1,660 s.
    world, lane, _, second = rig()
    other = rendering(second, gpu_free=True)
    for _ in range(20):
        world.advance(5.0)
        world.report(lane, work=rendering(second))
    for _ in range(140):
        world.report(lane, work=other)
        world.advance(5.0)
    world.has_finished(lane, DONE, other)
    world.finishing[lane] = other
    for _ in range(171):
        world.advance(5.0)
        world.report(lane, work=None, seen=0)
    assert world.task(second).state is TaskState.LEASED
    for _ in range(2):
        world.advance(5.0)
        world.report(lane, work=None, seen=0)
    task = world.task(second)
    assert task.failure is not None
    assert task.failure.code is FailureCode.DEADLINE_EXCEEDED


def test_both_run_again_the_older_one_first_when_the_lane_is_lost() -> None:
    world, lane, first, second = rig()
    world.advance(30.0)
    assert list(world.core.state.queues[ANISORA])[:2] == [first, second]
    assert [world.task(one).lost_lanes for one in (first, second)] == [1, 1]
    # It comes back and still has both: neither is its own any more.
    world.attach("lane-anisora", ANISORA, work=rendering(second))
    world.has_finished(lane, DONE, rendering(second))
    assert world.commits == []


def test_lease_that_was_never_begun_does_not_count_when_the_lane_boots_anew() -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.works(LaneId("lane-anisora"))
    world.frees_gpu(LaneId("lane-anisora"))
    lane = world.attach("lane-anisora", ANISORA, boot="boot-2", forgets=True)
    assert [world.task(one).lost_lanes for one in (first, second)] == [1, 0]
    assert world.lease(lane) == Lease(task_id=first, attempt=2)


def test_only_the_one_that_is_finished_is_stopped_when_it_is_cancelled() -> None:
    world, lane, first, second = rig()
    world.cancel(first)
    wish = world.wishes[lane]
    assert (wish.finishing, wish.lease) == (None, Lease(task_id=second, attempt=1))
    assert world.task(first).is_withdrawn
    world.has_finished(lane, failed(Failure(code=FailureCode.CANCELLED, message="stopped")), rendering(second))
    assert (world.task(first).state, world.task(first).is_withdrawn) == (TaskState.CANCELLED, False)
    assert world.task(second).state is TaskState.LEASED


def test_only_the_one_that_is_rendered_is_stopped_when_it_is_cancelled() -> None:
    world, lane, first, second = rig()
    world.cancel(second)
    wish = world.wishes[lane]
    assert (wish.finishing, wish.lease) == (Lease(task_id=first, attempt=1), None)
    world.report(lane, work=replace(rendering(second), outcome=failed(Failure(code=FailureCode.CANCELLED, message="stopped"))))
    following = world.lease(lane)
    assert following is not None
    assert world.task(first).state is TaskState.LEASED
    world.has_finished(lane, DONE, rendering(following.task_id))
    assert world.task(first).state is TaskState.DONE


def test_failed_upload_runs_the_task_again_when_another_is_rendered_meanwhile() -> None:
    world, lane, first, second = rig()
    world.has_finished(lane, LOST, rendering(second))
    task = world.task(first)
    assert (task.state, task.lost_lanes) == (TaskState.QUEUED, 1)
    assert world.lease(lane) == Lease(task_id=second, attempt=1)


def test_attempt_is_lost_when_the_lane_names_it_nowhere() -> None:
    world, lane, first, second = rig()
    world.finishing.clear()
    world.report(lane, work=rendering(second))
    assert (world.task(first).state, world.task(first).lost_lanes) == (TaskState.QUEUED, 1)
    assert world.task(second).state is TaskState.LEASED


def test_live_lane_keeps_both_when_admission_restarts() -> None:
    world, lane, first, second = rig()
    world.restart([world.core.state.lanes[lane].spec])
    world.attach("lane-anisora", ANISORA, work=rendering(second))
    assert world.wishes[lane].finishing == Lease(task_id=first, attempt=1)
    assert world.lease(lane) == Lease(task_id=second, attempt=1)
    world.has_finished(lane, DONE, rendering(second))
    world.ends(lane)
    assert world.commits == [(first, 1), (second, 1)]


def test_lease_that_was_not_sent_yet_is_sent_when_admission_restarts_right_after_it_was_stored() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.works(lane)
    world.frees_gpu(lane)
    world.finishing.clear()
    # The lane never heard of the move.
    world.restart([world.core.state.lanes[lane].spec])
    world.attach("lane-anisora", ANISORA, work=rendering(first, gpu_free=True))
    wish = world.wishes[lane]
    assert (wish.finishing, wish.lease) == (Lease(task_id=first, attempt=1), Lease(task_id=second, attempt=1))


def test_first_report_says_which_has_the_gpu_when_the_clock_went_back_before_a_restart() -> None:
    world, lane, first, second = rig()
    # As after a jump of the wall clock between the two leases: the younger looks older.
    early = world.stored[first].leased_at
    assert early is not None
    world.stored[second] = replace(world.stored[second], leased_at=early - timedelta(seconds=10))
    world.restart([world.core.state.lanes[lane].spec])
    world.attach("lane-anisora", ANISORA, work=rendering(second))
    assert world.wishes[lane].finishing == Lease(task_id=first, attempt=1)
    assert world.lease(lane) == Lease(task_id=second, attempt=1)


def test_older_word_takes_nothing_back_to_the_gpu_when_it_comes_on_a_newer_stream() -> None:
    # The first report of a new stream was sent before the last one of the old stream, and came after it.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.works(lane)
    world.frees_gpu(lane)
    world.finishing.clear()
    world.attach("lane-anisora", ANISORA, work=rendering(first))
    wish = world.wishes[lane]
    assert (wish.finishing, wish.lease) == (Lease(task_id=first, attempt=1), Lease(task_id=second, attempt=1))
    assert world.task(first).stage is Stage.ENCODING


def test_lane_that_is_being_stopped_finishes_and_gives_the_other_lease_back() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.works(lane)
    world.frees_gpu(lane)
    world.report(lane, work=None, draining=True)
    assert (world.task(second).state, world.task(second).lost_lanes) == (TaskState.QUEUED, 0)
    world.has_finished(lane)
    assert world.commits == [(first, 1)]


def test_view_shows_both() -> None:
    world, lane, first, second = rig()
    view = view_lane(world.core.state, world.core.state.lanes[lane], world.now().monotonic_s)
    assert view.work is not None
    assert view.finishing is not None
    assert (view.work.task_id, view.finishing.task_id) == (second, first)
