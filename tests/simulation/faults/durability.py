"""Faults of the order: what must be on disk before anyone is told. Each is a mutation of the real code, undone afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from unittest.mock import patch

from admission import engine, journal
from admission.core.commands import Command, PersistTask, ReplyAccepted, SendWish
from admission.core.events import CancelRequested
from admission.core.state import Turn
from admission.core.tasks import Task, TaskId, TaskState
from tests.simulation.disk import Disk


def reply_before_persist() -> AbstractContextManager[object]:
    """The caller hears of its acceptance before the write."""
    append = journal.Journal.append

    def hasty(self: journal.Journal, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, ReplyAccepted):
                self._carry_out(command)
        append(self, commands)

    return patch.object(journal.Journal, "append", hasty)


def send_before_persist() -> AbstractContextManager[object]:
    """The lane hears of its lease before the write."""
    append = journal.Journal.append

    def hasty(self: journal.Journal, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, SendWish):
                self._carry_out(command)
        append(self, commands)

    return patch.object(journal.Journal, "append", hasty)


def lease_not_persisted() -> AbstractContextManager[object]:
    """A lease lives in memory only."""
    store = Turn.store

    def forgetful(self: Turn, task: Task, *, accepts: bool = False) -> None:
        store(self, task, accepts=accepts)
        if task.state is TaskState.LEASED and task.attempt == 1 and not accepts:
            self.commands = [one for one in self.commands if not (isinstance(one, PersistTask) and one.task is task)]

    return patch.object(Turn, "store", forgetful)


def epoch_guard_off() -> AbstractContextManager[object]:
    """The store takes writes of an admission that was replaced."""
    return patch.object(Disk, "guard", lambda self, epoch: None)


def cancel_told_too_early() -> AbstractContextManager[object]:
    """A cancel is answered before it is durable."""

    async def at_once(self: journal.Journal) -> None:
        return

    async def view(self: engine.Engine, task_id: TaskId) -> object:
        self._handle(CancelRequested(task_id=task_id))
        return await self.task(task_id)

    return patch.object(engine.Engine, "cancel", view)
