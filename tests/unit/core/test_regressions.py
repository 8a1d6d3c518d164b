"""Interleavings that once broke the core, one each; the comment says how."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from admission.core.commands import DiscardAttempt
from admission.core.events import LaneReported, TaskDeleted
from admission.core.lanes import Report
from admission.core.tasks import LaneId, TaskState
from admission.core.time import Now
from tests.harness.core import ANISORA, DONE, PHR00T, START, World


def _again(world: World, lane: LaneId, **changes: object) -> Report:
    last = world.core.state.lanes[lane].report
    assert last is not None
    return replace(last, **changes)  # type: ignore[arg-type]


def test_refused_acceptances_leave_no_place_taken_when_the_pool_restarted_meanwhile() -> None:
    # _forget left the id in `rescued`: a place was lost, and the next look at the pool ended admission with a KeyError.
    world = World()
    pool = world.attach("pool", ANISORA, PHR00T, pool=True)
    task_id = world.submit()
    world.handle(LaneReported(report=_again(world, pool, boot_id="boot-2", session=99, seen_sequence=0, warm=False)))
    assert list(world.core.state.rescued) == [task_id]
    world.refuse_acceptances(task_id)
    assert world.core.state.degraded_depth == 0
    world.handle(LaneReported(report=_again(world, pool, warm=True)))


def test_no_refused_task_is_dispatched_when_several_are_refused_at_once() -> None:
    # They were forgotten one by one: forgetting the leased one dispatched the next refused one, which was then stored as leased.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first, second = world.submit(), world.submit()
    world.refuse_acceptances(first, second)
    assert world.stored == {}
    assert world.lease(lane) is None


def test_render_is_given_up_at_its_own_deadline_when_predictions_rise_meanwhile() -> None:
    # The one look compared with the newest prediction, found it not due, and was never set again.
    world = World()
    stuck, other = world.attach("lane-a", ANISORA), world.attach("lane-b", ANISORA)
    task_id = world.submit()
    world.submit()
    for _ in range(160):
        world.works(stuck)
        world.works(other)
        world.advance(5.0)
    world.ends(other, replace(DONE, render_s=800.0))
    for _ in range(34):
        world.works(stuck)
        world.advance(5.0)
        if world.task(task_id).state is TaskState.FAILED:
            break
    assert world.task(task_id).state is TaskState.FAILED
    assert world.elapsed_s <= 965.0


def test_task_fails_with_not_served_when_the_wall_clock_was_set_back() -> None:
    # The look compared UTC times: two seconds back, and it found the task not due, for ever.
    world = World()
    world.attach("lane-anisora", ANISORA)
    world.submit()
    waiting = world.submit()
    world.now = lambda: Now(monotonic_s=1000.0 + world.elapsed_s, utc=START + timedelta(seconds=world.elapsed_s - 2.0))  # type: ignore[method-assign]
    world.advance(3600.0)
    assert world.task(waiting).state is TaskState.FAILED


def test_tasks_are_rescued_when_their_lane_comes_back_for_another_model() -> None:
    # Nothing noted that the old model had lost its last lane.
    world = World()
    world.attach("lane-a", ANISORA)
    tasks = [world.submit(), world.submit()]
    pool = world.attach("pool", ANISORA, PHR00T, pool=True)
    world.attach("lane-a", PHR00T, boot="boot-2")
    for _ in range(8):
        world.advance(5.0)
        world.report(pool)
    assert world.task(tasks[0]).lane_id == pool


def test_loss_does_not_count_when_the_lane_that_declined_is_draining() -> None:
    # Three rolling updates that each crossed with a lease failed a task with `lane_lost`.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.report(lane, draining=True)
    assert world.task(task_id).state is TaskState.QUEUED
    assert world.task(task_id).lost_lanes == 0


def test_older_process_of_a_lane_changes_nothing_when_it_dials_again() -> None:
    # Two processes with one lane id took the lease from each other with every dial.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.attach("lane-anisora", ANISORA, boot="boot-2")
    task_id = world.submit()
    world.handle(LaneReported(report=_again(world, lane, boot_id="boot-1", session=77, seen_sequence=0, work=None)))
    assert world.core.state.lanes[lane].boot_id == "boot-2"
    assert world.task(task_id).attempt == 1


def test_cancelled_attempt_gets_its_memory_record_when_admission_restarts_before_the_lane_says_more() -> None:
    # What was withdrawn lived in memory only: after a restart the end of the attempt left no record.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.cancel(task_id)
    world.restart([world.core.state.lanes[lane].spec])
    world.attach("lane-anisora", ANISORA)
    world.says_ended(lane, task_id, 1)
    assert world.recorded == {(task_id, 1)}
    assert not world.task(task_id).is_withdrawn


def test_cancelled_attempt_gets_an_unmeasured_record_and_its_files_go_when_its_lane_dies() -> None:
    # `lose` recorded it but left the files.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.cancel(task_id)
    commands = world.handle(LaneReported(report=_again(world, lane, boot_id="boot-2", session=99, seen_sequence=0, work=None)))
    assert DiscardAttempt(task_id=task_id, attempt=1) in commands
    assert world.recorded == {(task_id, 1)}


def test_nothing_is_written_about_a_deleted_task_when_its_withdrawn_attempt_ends() -> None:
    # Writing the ended task again would bring it back.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.cancel(task_id)
    world.handle(TaskDeleted(task_id=task_id))
    del world.stored[task_id]
    world.says_ended(lane, task_id, 1)
    assert task_id not in world.stored


def test_held_request_is_refused_at_30_s_whatever_the_clock_shows() -> None:
    # since + 30.0 rounds: for some starts (this + 30.0) - this < 30.0, and the look at exactly that time did nothing.
    world = World()
    world.elapsed_s = 1045.45
    task_id = world.submit()
    world.advance(30.0)
    assert task_id in world.overloaded


def test_lane_turns_cold_when_the_end_of_its_contact_rounds_down() -> None:
    world = World()
    for start_s in (0.1, 7.3, 1045.45, 99999.7):
        world.elapsed_s = start_s
        lane = world.attach("lane-anisora", ANISORA)
        world.advance(10.001)
        assert not world.core.state.ready[ANISORA], (start_s, lane)


def test_progress_does_not_fall_when_admission_restarts() -> None:
    # It was kept in memory only: the same attempt showed 0 until the lane reported again.
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane, progress=45)
    world.restart([world.core.state.lanes[lane].spec])
    assert world.core.state.tasks[task_id].progress == 45


def test_work_goes_to_a_lane_that_can_hear_of_it_when_another_ones_stream_is_gone() -> None:
    # A lane whose stream had just ended got the lease and could not be told: the task waited 30 s beside an idle lane.
    world = World()
    gone = world.attach("lane-1", ANISORA)
    there = world.attach("lane-2", ANISORA)
    world.detach(gone)
    assert world.task(world.submit()).lane_id == there


def test_task_waits_in_its_queue_when_the_only_lane_of_its_model_lost_its_stream_for_a_moment() -> None:
    world = World()
    lane = world.attach("lane-1", ANISORA)
    world.detach(lane)
    task_id = world.submit()
    assert world.task(task_id).state is TaskState.QUEUED
    world.attach("lane-1", ANISORA)
    assert world.task(task_id).state is TaskState.LEASED
