"""The events of the tasks that were accepted last, kept in memory, so that most watchers and status polls read nothing from the store."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from admission.core.tasks import Event, TaskId

FIRST_EVENT = "accepted"
"""Every task's history begins with it."""

_MOST_EVENTS = 4_096


class RecentEvents:
    """Whole histories only: of a task that is known here, every event that is on disk is here too."""

    def __init__(self, most_events: int = _MOST_EVENTS) -> None:
        """Keeps about so many events; when there are more, the tasks that were accepted first are dropped."""
        self._most_events = most_events
        self._count = 0
        self._of: dict[TaskId, list[tuple[int, Event]]] = {}

    def add(self, event: Event, sequence: int) -> None:
        """The event is on disk under this number. To be called in the order of the numbers."""
        if event.task_id is None:
            return
        known = self._of.get(event.task_id)
        if known is None:
            if event.event_type != FIRST_EVENT:
                # Its history began before this admission, or was dropped.
                return
            known = self._of[event.task_id] = []
        known.append((sequence, event))
        self._count += 1
        while self._count > self._most_events:
            self.forget(next(iter(self._of)))

    def forget(self, task_id: TaskId) -> None:
        """The task is gone, or nobody is expected to ask for it any more."""
        self._count -= len(self._of.pop(task_id, ()))

    def of(self, task_id: TaskId, after: int, limit: int | None = None) -> tuple[Event, ...] | None:
        """The task's events after this number, oldest first; None when its history is not known here."""
        known = self._of.get(task_id)
        if known is None:
            return None
        later = (replace(event, sequence=sequence) for sequence, event in known if sequence > after)
        return tuple(islice(later, limit))
