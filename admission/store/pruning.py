"""Removes what is too old, a bounded number of rows at a time, in the writer's transaction."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sqlalchemy import Connection, delete, select, text, update

from admission.core.tasks import TERMINAL, TaskId
from admission.store.batches import BatchWriter, Place
from admission.store.database import driver_cursor
from admission.store.port import Pruned, Retention
from admission.store.schema import EVENTS, IS_ENDED, TASKS


def prune(connection: Connection, writer: BatchWriter, epoch: int, retention: Retention) -> Pruned:
    """Removes old tasks and loose events.

    Raises:
        StaleEpochError: a newer epoch was claimed.
    """
    last_sequence = writer.guard(driver_cursor(connection), epoch)
    task_ids = _prune_tasks(connection, writer, retention, last_sequence)
    events = _prune_events(connection, retention)
    if events:
        writer.keep_sequence(driver_cursor(connection), last_sequence)
    return Pruned(task_ids=task_ids, events=events)


def _prune_tasks(connection: Connection, writer: BatchWriter, retention: Retention, last_sequence: int) -> tuple[TaskId, ...]:
    old: list[tuple[datetime, TaskId, Place]] = []
    for state in TERMINAL.intersection(retention.tasks_before):
        query = select(TASKS.c.updated_at, TASKS.c.task_id, TASKS.c.model, TASKS.c.state).where(
            text(IS_ENDED),
            TASKS.c.state == state.value,
            TASKS.c.updated_at < retention.tasks_before[state],
            TASKS.c.is_withdrawn.is_(False),
        )
        found = connection.execute(query.order_by(TASKS.c.updated_at, TASKS.c.task_id).limit(retention.limit))
        old += [(updated_at, TaskId(task_id), (model, state)) for updated_at, task_id, model, state in found]
    oldest = sorted(old)[: retention.limit]
    cursor = driver_cursor(connection)
    task_ids = tuple(task_id for _, task_id, _ in oldest)
    writer.delete_tasks(cursor, task_ids, last_sequence)
    changes: Counter[Place] = Counter()
    changes.subtract(place for _, _, place in oldest)
    writer.count(cursor, changes)
    return task_ids


def _prune_events(connection: Connection, retention: Retention) -> int:
    """Old loose events. One whose task was stored after it is tied to that task now, and goes with it."""
    if retention.events_before is None:
        return 0
    removed = 0
    while removed < retention.limit:
        oldest = (
            select(EVENTS.c.sequence, EVENTS.c.task_id)
            .where(text("is_loose"), EVENTS.c.created_at < retention.events_before)
            .order_by(EVENTS.c.created_at, EVENTS.c.sequence)
            .limit(retention.limit - removed)
        )
        found = {event.sequence: event.task_id for event in connection.execute(oldest)}
        if not found:
            break
        stored = set(connection.execute(select(TASKS.c.task_id).where(TASKS.c.task_id.in_(set(found.values()) - {None}))).scalars())
        tied = [sequence for sequence, task_id in found.items() if task_id in stored]
        connection.execute(update(EVENTS).where(EVENTS.c.sequence.in_(tied)).values(is_loose=False))
        connection.execute(delete(EVENTS).where(EVENTS.c.sequence.in_(found.keys() - tied)))
        removed += len(found) - len(tied)
    return removed
