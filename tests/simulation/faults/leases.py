"""Faults of leases, of fencing and of the memory records that end them. Each is a mutation of the real code, undone afterwards."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any
from unittest.mock import patch

from admission.core import availability, contact, leases
from admission.core.lanes import Lease, Outcome, Report
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.state import Assignment, Lane, State, Turn
from admission.core.tasks import Event, Task, TaskState, moved
from tests.simulation import world


def fencing_forgotten() -> AbstractContextManager[object]:
    """The result of an attempt that is not the present one is committed."""
    refuse = leases.refuse

    def believe(turn: Turn, lane: Lane, stale: Lease, outcome: Outcome) -> None:
        task = turn.state.tasks.get(stale.task_id)
        refuse(turn, lane, stale, outcome)
        if task is not None and task.lane_id is not None and task.state is TaskState.LEASED and outcome.result is not None:
            holder = turn.state.lanes[task.lane_id]
            current = holder.assignment_of(task.task_id)
            if current is not None:
                leases.settle(turn, holder, current, task, outcome)

    return patch.object(leases, "refuse", believe)


def attempt_number_reused() -> AbstractContextManager[object]:
    """The same lane that lost a lease gets it again under the old number."""

    def same(task: Task, state: TaskState, at: datetime, **changes: Any) -> Task:
        if "attempt" in changes and task.attempt > 0:
            changes["attempt"] = task.attempt
        return moved(task, state, at, **changes)

    return patch.object(leases, "moved", same)


def lease_kept_after_loss() -> AbstractContextManager[object]:
    """A lane that lost its lease keeps it in the core."""
    lose = leases.lose

    def sticky(turn: Turn, lane: Lane, assignment: Assignment, reason: str, *, counts: bool = True) -> None:
        lose(turn, lane, assignment, reason, counts=counts)
        lane.rendering = lane.rendering or assignment

    return patch.object(leases, "lose", sticky)


def old_boots_are_heard() -> AbstractContextManager[object]:
    """A lane's process that a newer one replaced is listened to again."""
    boot = contact._boot

    def forgetful(turn: Turn, lane: Lane, report: Report) -> None:
        boot(turn, lane, report)
        lane.past_boots = ()

    return patch.object(contact, "_boot", forgetful)


def lease_ends_at_restart() -> AbstractContextManager[object]:
    """Leases are not renewed when admission starts again."""
    restore = QueueState._restore_lease

    def short(self: QueueState, turn: Turn, task: Task) -> None:
        with patch.object(self.state, "limits", replace(self.state.limits, lease_s=1.0)):
            restore(self, turn, task)

    return patch.object(QueueState, "_restore_lease", short)


def fourth_attempt() -> AbstractContextManager[object]:
    """A task goes on after its third lost lane."""
    return patch.object(world, "Limits", lambda **changes: Limits(max_lost_lanes=4, **changes))


def drain_ignored() -> AbstractContextManager[object]:
    """A drained lane gets work."""
    look = availability.availability

    def blind(state: State, lane: Lane, now_s: float) -> object:
        drained, lane.is_drained = lane.is_drained, False
        found = look(state, lane, now_s)
        lane.is_drained = drained
        return found

    return patch.object(availability, "availability", blind)


def memory_recorded_twice() -> AbstractContextManager[object]:
    """The record of an attempt is written twice."""
    remember = leases._remember_memory

    def twice(turn: Turn, lane: Lane, lease: Lease, memory: Any) -> None:
        remember(turn, lane, lease, memory)
        remember(turn, lane, lease, memory)

    return patch.object(leases, "_remember_memory", twice)


def memory_of_lost_lane_missing() -> AbstractContextManager[object]:
    """An attempt whose lane was lost gets no record."""
    record = Turn.record

    def some(self: Turn, event: Event) -> None:
        if not (event.event_type == "memory_record" and event.value == "unmeasured" and "restarted" in event.reason):
            record(self, event)

    return patch.object(Turn, "record", some)
