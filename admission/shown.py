"""What anyone is shown of tasks: each as it was last made durable, never as it is decided but not yet on disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from admission.core.tasks import TERMINAL, Event, Task, TaskId, TaskState
from admission.event_log import log_event

if TYPE_CHECKING:
    from admission.observer import Observer
    from admission.store.port import Store
    from admission.watching import Watching


class ShownTasks:
    """Tasks that are not over, in memory; the store has the others. Tells watchers and the observer of every change."""

    def __init__(self, store: Store, watching: Watching, observer: Observer) -> None:
        """Knows of no task yet."""
        self._store = store
        self._watching = watching
        self._observer = observer
        self._tasks: dict[TaskId, Task] = {}

    def __contains__(self, task_id: TaskId) -> bool:
        """Whether it is durable and not over."""
        return task_id in self._tasks

    def restore(self, tasks: Iterable[Task]) -> None:
        """Takes over what the store holds of those that are not over."""
        self._tasks = {task.task_id: task for task in tasks}

    async def task(self, task_id: TaskId) -> Task | None:
        """One that may be over; None: there is none."""
        return self._tasks.get(task_id) or await self._store.task(task_id)

    def newest(self, task: Task) -> Task:
        """A task that was read from the store, with its newest progress."""
        return self._tasks.get(task.task_id, task)

    def publish(self, task: Task) -> None:
        """Its newest state is on disk."""
        before = self._tasks.get(task.task_id)
        if (before is not None and before.state is TaskState.QUEUED) != (task.state is TaskState.QUEUED):
            self._watching.queue_moved(task.model)
        # One that was withdrawn is over when its lane said so; until that took effect the store may know more than its watchers were told.
        if task.state in TERMINAL and not task.is_withdrawn:
            self._tasks.pop(task.task_id, None)
        else:
            self._tasks[task.task_id] = task
        self._observer.shown(task)
        self._watching.task_changed(task.task_id)

    def recorded(self, event: Event, sequence: int) -> None:
        """The event is on disk under this number."""
        self._watching.recorded(event, sequence)
        # What a decision says of a task is shown before what it records of it.
        self._observer.recorded(event, None if event.task_id is None else self._tasks.get(event.task_id))
        log_event(event)

    def deleted(self, task_id: TaskId) -> None:
        """It is gone from the disk, with its events."""
        self._tasks.pop(task_id, None)
        self._watching.task_deleted(task_id)

    async def needs(self, task_id: TaskId, attempt: int) -> bool:
        """Whether an attempt's files are wanted. The store, not the core, knows whether it was committed: the core forgets ended tasks."""
        task = await self.task(task_id)
        return task is not None and task.attempt == attempt and task.state in (TaskState.DONE, TaskState.LEASED)
