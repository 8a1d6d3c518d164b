"""A database with very many unfinished tasks, written through the store's own door; benchmarks/store_scale.py makes finished ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from admission.core.tasks import Event, Model, Task, TaskId, TaskState
from admission.store.factory import open_store
from admission.store.port import Batch
from runtime.rules.check import check_request
from runtime.rules.effective import effective, latent_tokens
from runtime.rules.parameters import to_parameters

_BATCH = 1000
_OWNERS = 40


async def store_unfinished(database: Path, count: int) -> None:
    """Queued tasks of both models and many owners, accepted just now."""
    now = datetime.now(UTC)
    tasks = [_task(f"{number:032x}", number, now) for number in range(count)]
    await _store(database, [(task, [_event(task, "accepted")]) for task in tasks])


async def _store(database: Path, tasks: list[tuple[Task, list[Event]]]) -> None:
    store = open_store(f"sqlite:///{database}")
    await store.open()
    try:
        epoch = await store.claim_epoch()
        for first in range(0, len(tasks), _BATCH):
            some = tasks[first : first + _BATCH]
            await store.write(epoch, Batch(tasks=[task for task, _ in some], events=[event for _, events in some for event in events]))
    finally:
        await store.close()


def _task(task_id: str, number: int, at: datetime) -> Task:
    model = ("anisora", "phr00t")[number % 2]
    size = {"width": 256 + 16 * (number % 50), "height": 256 + 16 * (number % 30), "num_frames": 17}
    request = effective(check_request({"model": model, "prompt": f"scene {number}: a river in the mountains", **size}), seed=number)
    at += timedelta(microseconds=number)
    return Task(
        task_id=TaskId(task_id),
        owner=f"session-{number % _OWNERS}",
        model=Model(model),
        mode=request.mode,
        parameters=to_parameters(request),
        tokens=latent_tokens(request),
        state=TaskState.QUEUED,
        created_at=at,
        updated_at=at,
        queued_at=at,
    )


def _event(task: Task, event_type: str) -> Event:
    return Event(event_type=event_type, created_at=task.created_at, task_id=task.task_id, model=task.model)
