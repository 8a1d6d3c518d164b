"""Tasks that ended in an earlier system: written as they are; no lane, queue or deadline ever knows of them."""

from __future__ import annotations

from admission.core.commands import PersistTask, ReplyAccepted
from admission.core.state import Turn
from admission.core.tasks import TERMINAL, Event, Task


def take_over(turn: Turn, task: Task) -> None:
    """Has the task written. If that cannot be done now, whoever waits is told so and nothing is left of it, as of an acceptance.

    Raises:
        ValueError: it has not ended, or a task of this id is in work: a bug of the shell, which looks before it asks.
    """
    if task.state not in TERMINAL or task.is_withdrawn or task.task_id in turn.state.tasks:
        msg = f"task {task.task_id} cannot be taken over in state {task.state}"
        raise ValueError(msg)
    turn.emit(PersistTask(task=task, accepts=True))
    turn.record(
        Event(
            event_type="imported",
            created_at=turn.now.utc,
            value=task.state,
            reason="" if task.failure is None else task.failure.code,
            task_id=task.task_id,
            model=task.model,
        )
    )
    turn.emit(ReplyAccepted(task=task))
