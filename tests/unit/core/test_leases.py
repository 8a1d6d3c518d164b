"""A lease from its giving to its end: settled, lost, withdrawn, late, restored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from admission.core.commands import DiscardAttempt
from admission.core.events import LaneReported, TimePassed
from admission.core.lanes import KnownLane, Lease, Work
from admission.core.tasks import (
    TERMINAL,
    TRANSITIONS,
    Failure,
    FailureCode,
    IllegalTransitionError,
    Stage,
    TaskState,
    moved,
)
from tests.harness.core import ANISORA, World, failed


def test_result_is_committed_once_when_the_lane_repeats_it() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.says_ended(lane, task_id, 1)
    world.says_ended(lane, task_id, 1)
    assert world.commits == [(task_id, 1)]
    assert world.task(task_id).state is TaskState.DONE


def test_task_runs_again_at_the_head_when_its_lane_is_silent_for_30_s() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    first = world.submit()
    world.submit()
    world.works(lane)
    world.advance(30.0)
    task = world.task(first)
    assert (task.state, task.lost_lanes) == (TaskState.QUEUED, 1)
    world.attach("lane-2", ANISORA)
    lease = world.wishes[next(reversed(world.wishes))].lease
    assert lease is not None
    assert (lease.task_id, lease.attempt) == (first, 2)


def test_task_runs_again_at_once_when_its_lane_comes_back_with_a_new_boot_id() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.attach("lane-anisora", ANISORA, boot="boot-2")
    lease = world.lease(lane)
    assert lease is not None
    assert (lease.task_id, lease.attempt) == (task_id, 2)


def test_lane_keeps_its_lease_when_only_its_stream_is_new() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    work = Work(task_id=task_id, attempt=1, stage=Stage.INFERENCE, progress=40)
    world.attach("lane-anisora", ANISORA, work=work)
    assert world.task(task_id).attempt == 1
    assert world.core.state.tasks[task_id].progress == 40


def test_task_fails_with_lane_lost_when_the_third_lane_is_lost() -> None:
    world = World()
    task_id = world.submit()
    for boot in ("boot-1", "boot-2", "boot-3", "boot-4"):
        lane = world.attach("lane-anisora", ANISORA, boot=boot)
        if boot != "boot-4":
            world.works(lane)
    task = world.task(task_id)
    assert task.state is TaskState.FAILED
    assert task.failure is not None
    assert task.failure.code is FailureCode.LANE_LOST


def test_lost_lane_counts_when_only_the_pipeline_process_died() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.ends(lane, failed(Failure(code=FailureCode.LANE_LOST, message="the pipeline's process was killed")))
    task = world.task(task_id)
    assert (task.state, task.attempt, task.lost_lanes) == (TaskState.LEASED, 2, 1)


def test_late_result_is_refused_when_another_attempt_is_current() -> None:
    world = World()
    zombie = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(zombie)
    world.advance(31.0)
    other = world.attach("lane-2", ANISORA)
    world.works(other)
    world.says_ended(zombie, task_id, 1)
    assert world.commits == []
    world.ends(other)
    assert world.commits == [(task_id, 2)]


def test_late_result_is_refused_when_the_same_lane_holds_a_newer_attempt() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.advance(31.0)
    world.attach("lane-anisora", ANISORA)
    assert world.core.state.tasks[task_id].attempt == 2
    world.says_ended(lane, task_id, 1)
    assert world.commits == []


def test_zombie_is_told_to_forget_and_gets_new_work_when_its_result_was_refused() -> None:
    world = World()
    zombie = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(zombie)
    world.advance(31.0)
    world.attach("lane-2", ANISORA)
    world.says_ended(zombie, task_id, 1)
    assert world.wishes[zombie].acknowledged == Lease(task_id=task_id, attempt=1)
    assert zombie in world.core.state.idle[ANISORA]


def test_lease_is_taken_as_lost_only_when_the_lane_saw_it() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    sequence = world.wishes[lane].sequence
    world.report(lane, seen=sequence - 1)  # crossed with the wish
    assert world.core.state.tasks[task_id].attempt == 1
    world.report(lane, seen=sequence)
    assert world.core.state.tasks[task_id].attempt == 2


def test_cancel_is_terminal_at_once_and_the_lane_gets_nothing_new_before_it_is_free() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.cancel(task_id)
    waiting = world.submit()
    assert world.task(task_id).state is TaskState.CANCELLED
    assert world.lease(lane) is None
    cancelled = failed(Failure(code=FailureCode.CANCELLED, message="stopped"))
    world.report(lane, work=Work(task_id=task_id, attempt=1, stage=Stage.INFERENCE, progress=50, outcome=cancelled))
    lease = world.lease(lane)
    assert lease is not None
    assert lease.task_id == waiting


def test_result_is_discarded_when_it_comes_after_the_cancel() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.cancel(task_id)
    world.says_ended(lane, task_id, 1)
    assert world.commits == []
    assert world.task(task_id).state is TaskState.CANCELLED


def test_cancel_changes_nothing_when_the_task_is_done() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.ends(lane)
    world.cancel(task_id)
    assert world.task(task_id).state is TaskState.DONE


def test_render_is_ended_when_the_lane_goes_on_past_the_deadline_and_its_grace() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    for _ in range(960 // 5):
        world.works(lane)
        world.advance(5.0)
    task = world.task(task_id)
    assert task.failure is not None
    assert task.failure.code is FailureCode.DEADLINE_EXCEEDED
    assert world.lease(lane) is None


def test_second_stream_of_a_lane_silences_the_first() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    old = world.core.state.lanes[lane].report
    assert old is not None
    world.attach("lane-anisora", ANISORA, boot="boot-2")
    world.handle(LaneReported(report=old))
    assert world.core.state.lanes[lane].boot_id == "boot-2"


def test_nothing_is_left_when_an_acceptance_could_not_be_stored() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.refuse_acceptances(task_id)
    assert world.core.state.tasks == {}
    assert world.lease(lane) is None


def test_live_lane_keeps_its_render_when_admission_restarts() -> None:
    before = World()
    lane = before.attach("lane-anisora", ANISORA)
    task_id = before.submit()
    before.works(lane)
    after = World()
    after.stored = dict(before.stored)
    after.core.restore(before.stored.values(), [KnownLane(spec=before.core.state.lanes[lane].spec)], after.now())
    after.advance(20.0)
    work = Work(task_id=task_id, attempt=1, stage=Stage.INFERENCE, progress=60)
    after.attach("lane-anisora", ANISORA, work=work)
    after.works(lane)
    after.ends(lane)
    assert after.commits == [(task_id, 1)]


def test_lease_is_queued_again_when_its_lane_does_not_come_back_after_a_restart() -> None:
    before = World()
    lane = before.attach("lane-anisora", ANISORA)
    task_id = before.submit()
    after = World()
    after.stored = dict(before.stored)
    after.core.restore(before.stored.values(), [KnownLane(spec=before.core.state.lanes[lane].spec)], after.now())
    after.advance(29.9)
    assert after.core.state.tasks[task_id].state is TaskState.LEASED
    after.advance(0.1)
    assert after.core.state.tasks[task_id].state is TaskState.QUEUED


def test_files_of_a_lost_attempt_are_discarded() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    task_id = world.submit()
    world.works(lane)
    world.elapsed_s += 31.0
    commands = world.handle(TimePassed())
    assert DiscardAttempt(task_id=task_id, attempt=1) in commands


@pytest.mark.parametrize("state", list(TaskState))
def test_transition_is_refused_when_the_table_does_not_have_it(state: TaskState) -> None:
    world = World()
    world.attach("lane-anisora", ANISORA)
    task = world.task(world.submit())
    for target in set(TaskState) - TRANSITIONS[state]:
        with pytest.raises(IllegalTransitionError, match="not in the table"):
            moved(replace(task, state=state), target, task.updated_at)


def test_terminal_states_have_no_way_out() -> None:
    assert all(not TRANSITIONS[state] for state in TERMINAL)
