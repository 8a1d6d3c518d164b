"""Fills stores and reads them whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from admission.core.tasks import Event, Task, TaskId
from admission.store.port import Batch, EventQuery, Store, TaskPage


async def fill(store: Store, *tasks: Task) -> int:
    """Stores the tasks under a fresh epoch, which it returns."""
    epoch = await store.claim_epoch()
    await store.write(epoch, Batch(tasks=tasks))
    return epoch


def ids(page: TaskPage) -> list[str]:
    """The ids on a page, in its order."""
    return [task.task_id for task in page.tasks]


async def events(store: Store, task_id: str | None = "task-1", **filters: Any) -> list[Event]:
    """Every event of the task (None: of all) that passes the filters, without its number, so that it equals what was written."""
    query = EventQuery(task_id=None if task_id is None else TaskId(task_id), limit=10_000, **filters)
    return unnumbered((await store.events(query)).events)


def unnumbered(found: Sequence[Event]) -> list[Event]:
    """The events as they were written."""
    return [replace(event, sequence=0) for event in found]
