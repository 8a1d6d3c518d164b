"""Faults that lose a task, or change one that has ended. Each is a mutation of the real code, undone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from admission.core import leases, operators
from admission.core.commands import Command
from admission.core.lanes import Outcome
from admission.core.queue import QueueState
from admission.core.state import Assignment, Lane, Turn
from admission.core.tasks import Task, TaskId, TaskState
from admission.shown import ShownTasks


def _restore_some(keep: Callable[[Task], bool]) -> AbstractContextManager[object]:
    restore = QueueState.restore

    def some(self: QueueState, tasks: Iterable[Task], *rest: Any) -> list[Command]:
        return restore(self, [task for task in tasks if keep(task)], *rest)

    return patch.object(QueueState, "restore", some)


def leased_forgotten_at_restart() -> AbstractContextManager[object]:
    """A restarted admission takes over queued tasks only."""
    return _restore_some(lambda task: task.state is not TaskState.LEASED)


def withdrawn_forgotten_at_restart() -> AbstractContextManager[object]:
    """A restarted admission forgets what a lane was told to stop."""
    return _restore_some(lambda task: not task.is_withdrawn)


def cancelled_runs_again() -> AbstractContextManager[object]:
    """A restart takes a cancelled task whose lane still works on it for one that goes on."""

    def resurrect(self: QueueState, turn: Turn, task: Task) -> None:
        again = replace(task, state=TaskState.QUEUED, failure=None, is_withdrawn=False)
        turn.store(again)
        self._restore_queued(turn, again)

    return patch.object(QueueState, "_restore_withdrawn", resurrect)


def cancelled_is_done_later() -> AbstractContextManager[object]:
    """A result that comes after the cancel is committed."""
    end = leases.end_withdrawn

    def late(turn: Turn, lane: Lane, assignment: Assignment, outcome: Outcome | None, reason: str = "no word") -> None:
        task = turn.state.withdrawn.get(assignment.lease.task_id)
        end(turn, lane, assignment, outcome, reason)
        if task is not None and outcome is not None:
            turn.store(replace(task, state=TaskState.DONE, result=outcome.result, failure=None, is_withdrawn=False))

    return patch.object(leases, "end_withdrawn", late)


def committed_files_removed() -> AbstractContextManager[object]:
    """The sweeper does not ask the store whether an attempt was committed."""

    async def never(self: ShownTasks, task_id: TaskId, attempt: int) -> bool:
        return False

    return patch.object(ShownTasks, "needs", never)


def operators_forgotten_at_restart() -> AbstractContextManager[object]:
    """What operators said about models ends with the process."""
    return patch.object(operators, "restore", lambda turn, policy: None)
