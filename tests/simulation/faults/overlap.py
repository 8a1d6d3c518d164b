"""Faults of a lane's second place, where an attempt is finished beside the next render. Each mutates the real code, undone afterwards."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from admission.core import contact, leases, reported
from admission.core.lanes import Outcome, Report, Work
from admission.core.queue import QueueState
from admission.core.state import Assignment, Lane, Turn
from admission.core.tasks import Task


def finishing_forgotten_when_its_lane_is_lost() -> AbstractContextManager[object]:
    """A lost lane gives back what it rendered only."""

    def some(turn: Turn, lane: Lane, reason: str) -> None:
        lane.finishing = None
        for assignment in lane.assignments:
            leases.lose(turn, lane, assignment, reason)

    return patch.object(leases, "lose_all", some)


def finishing_forgotten_at_restart() -> AbstractContextManager[object]:
    """Of two leases of a lane a restarted admission remembers one."""
    restore = QueueState._restore_assignment

    def one(self: QueueState, turn: Turn, lane: Lane, assignment: Assignment, task: Task) -> None:
        restore(self, turn, lane, assignment, task)
        lane.finishing = None

    return patch.object(QueueState, "_restore_assignment", one)


def gpu_given_twice() -> AbstractContextManager[object]:
    """A lane whose lease is half way gets the next one."""
    hear = contact.hear

    def hasty(turn: Turn, report: Report) -> None:
        work = report.work
        half_way = work is not None and work.progress >= 50
        hear(turn, replace(report, work=replace(work, gpu_free=True)) if work is not None and half_way else report)

    return patch.object(contact, "hear", hasty)


def overtaken_word_is_believed() -> AbstractContextManager[object]:
    """A report of a newer stream that says what was true before takes an attempt back to the GPU."""
    hear = reported._hear_leased

    def naive(turn: Turn, lane: Lane, assignment: Assignment, work: Work) -> None:
        assignment.is_gpu_free = False
        hear(turn, lane, assignment, work)

    return patch.object(reported, "_hear_leased", naive)


def outcome_goes_to_the_other() -> AbstractContextManager[object]:
    """How the attempt that is finished ended is taken for the end of the one that is rendered."""
    settle = leases.settle

    def confused(turn: Turn, lane: Lane, assignment: Assignment, task: Task, outcome: Outcome) -> None:
        other = lane.rendering
        if other is not None and other is not assignment and not other.is_withdrawn:
            assignment, task = other, turn.state.tasks[other.lease.task_id]
        settle(turn, lane, assignment, task, outcome)

    return patch.object(leases, "settle", confused)


def third_attempt_given() -> AbstractContextManager[object]:
    """What is finished is pushed out by the next that needs the GPU no more."""
    hear = reported._hear_gpu

    def pushing(turn: Turn, lane: Lane, report: Report) -> None:
        work, other = report.work, report.finishing
        if work is not None and work.gpu_free and other is not None:
            lane.finishing = None
        hear(turn, lane, report)

    return patch.object(reported, "_hear_gpu", pushing)
