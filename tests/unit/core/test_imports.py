"""What the core does with tasks that ended in an earlier system."""

from __future__ import annotations

import pytest

from admission.core.commands import PersistTask, Record, ReplyAccepted
from admission.core.events import TaskImported
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.tasks import Failure, FailureCode, Model, Task, TaskState
from admission.core.time import Now
from tests.harness.tasks import START, make_task

NOW = Now(monotonic_s=1000.0, utc=START)


def core() -> QueueState:
    """Without lanes and tasks."""
    return QueueState(Limits(), [Model("anisora")], NOW)


def test_task_is_written_with_its_event_and_forgotten_when_it_is_taken_over() -> None:
    state = core()
    failure = Failure(code=FailureCode.RENDER_FAILED, message="It broke.")
    task = make_task(state=TaskState.FAILED, failure=failure)

    persist, record, reply = state.handle(TaskImported(task=task), NOW)

    # As an acceptance: what cannot be stored now is given up, and whoever waits is told.
    assert persist == PersistTask(task=task, accepts=True)
    assert reply == ReplyAccepted(task=task)
    assert isinstance(record, Record)
    event = record.event
    assert (event.event_type, event.value, event.reason, event.created_at) == ("imported", "failed", "render_failed", START)
    assert (event.task_id, event.model) == (task.task_id, "anisora")
    assert (state.state.tasks, state.state.counters.accepted) == ({}, 0)


@pytest.mark.parametrize("task", [make_task(), make_task(state=TaskState.LEASED), make_task(state=TaskState.CANCELLED, is_withdrawn=True)])
def test_nothing_is_taken_over_when_it_has_not_ended(task: Task) -> None:
    with pytest.raises(ValueError, match="cannot be taken over"):
        core().handle(TaskImported(task=task), NOW)
