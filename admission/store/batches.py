"""One batch into the tables, in the writer's transaction: few statements, each for many rows.

The driver lets go of the interpreter at every statement and has to get it back from a busy event loop, which takes longer than the
statement itself: so rows go in by statements of many rows, not one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy.engine.interfaces import DBAPICursor

from admission.store import rows
from admission.store.database import Backend
from admission.store.port import Batch, StaleEpochError
from admission.store.schema import EVENTS, LANES, LEARNED, POLICIES, TASK_COUNTS, TASK_INPUTS, TASKS

Place = tuple[str, str]
"""A model and a state."""

_MODEL, _STATE = rows.TASK_COLUMNS.index("model"), rows.TASK_COLUMNS.index("state")

# Rows of one statement: powers of two, so that any number of rows takes few statements of few shapes. A row has at most 28 values;
# SQLite takes 32,766 in a statement, PostgreSQL 65,535.
_LARGEST = 128
_SIZES = tuple(2**power for power in range(_LARGEST.bit_length()))


class Rows(NamedTuple):
    """A batch as rows: nothing but plain values, so that it may be written by another process.

    Attributes:
        tasks: one for each task; those of deleted ones are left out.
        inputs: object key and task id, of every one of these tasks.
        events: in their order, still without a number, and not yet known whether they name a stored task.
        deleted: ids of tasks.
        forgotten_lanes: ids.
    """

    tasks: list[rows.Row]
    inputs: list[rows.Row]
    events: list[rows.Row]
    lanes: list[rows.Row]
    policies: list[rows.Row]
    learned: list[rows.Row]
    deleted: list[str]
    forgotten_lanes: list[str]


def rows_of(batch: Batch, moment: rows.Moment) -> Rows:
    """The batch's rows, times as the engine keeps them.

    Raises:
        ValueError, TypeError: it holds what cannot be stored.
    """
    gone = set(batch.deleted)
    # Merged batches may hold a task several times: the last one counts.
    tasks = [rows.task_row(task, moment) for task in {task.task_id: task for task in batch.tasks if task.task_id not in gone}.values()]
    events = [event for event in batch.events if event.task_id not in gone] if gone else batch.events
    return Rows(
        tasks=tasks,
        inputs=[(key, row[0]) for row in tasks for key in rows.input_keys_of(row)],
        events=[rows.event_row(event, moment) for event in events],
        lanes=[rows.lane_row(lane) for lane in {lane.spec.lane_id: lane for lane in batch.lanes}.values()],
        policies=[rows.policy_row(policy, moment) for policy in {policy.model: policy for policy in batch.policies}.values()],
        learned=[rows.learned_row(one) for one in {one.place: one for one in batch.learned}.values()],
        deleted=list(gone),
        forgotten_lanes=list(batch.forgotten_lanes),
    )


class Insert:
    """Inserts rows into a table, many with one statement."""

    def __init__(self, backend: Backend, table: Table, columns: Sequence[str], *, then: str = "") -> None:
        """`then`: what follows the values, such as ON CONFLICT."""
        head = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES "  # noqa: S608 - names of our own schema
        row = f"({', '.join('?' * len(columns))})"
        self._sql = {size: backend.native(f"{head}{', '.join([row] * size)} {then}") for size in _SIZES}

    def run(self, cursor: DBAPICursor, new: Sequence[rows.Row]) -> None:
        """Inserts the rows in their order; no row is fine."""
        first = 0
        while first < len(new):
            size = min(_LARGEST, 1 << ((len(new) - first).bit_length() - 1))
            cursor.execute(self._sql[size], [value for row in new[first : first + size] for value in row])
            first += size


class Among:
    """A statement about the rows that have one of some ids."""

    def __init__(self, backend: Backend, head: str) -> None:
        """`head`: everything before IN."""
        self._sql = {size: backend.native(f"{head} IN ({', '.join('?' * size)})") for size in _SIZES}

    def run(self, cursor: DBAPICursor, ids: Sequence[str]) -> None:
        """Executes it; no id is fine."""
        for part in self._parts(ids):
            cursor.execute(*part)

    def find(self, cursor: DBAPICursor, ids: Sequence[str]) -> Iterator[Any]:
        """Executes it and returns the rows found."""
        for part in self._parts(ids):
            cursor.execute(*part)
            yield from cursor.fetchall()

    def _parts(self, ids: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        for first in range(0, len(ids), _LARGEST):
            part = list(ids[first : first + _LARGEST])
            size = 1 << (len(part) - 1).bit_length()
            # One of them again in every place that is left.
            yield self._sql[size], part + part[-1:] * (size - len(part))


class BatchWriter:
    """Knows every statement of a write."""

    def __init__(self, backend: Backend) -> None:
        """Makes the statements for the engine."""
        self._backend = backend
        self._keep_sequence = backend.native("UPDATE controller SET last_sequence = ?")
        self._known = Among(backend, "SELECT task_id, model, state FROM tasks WHERE task_id")
        self._delete_lane = backend.native("DELETE FROM lanes WHERE lane_id = ?")
        self._deletions = [Among(backend, f"DELETE FROM {table.name} WHERE task_id") for table in (EVENTS, TASK_INPUTS, TASKS)]  # noqa: S608 - our own text
        self._tasks = Insert(backend, TASKS, rows.TASK_COLUMNS, then=replacing("task_id", rows.CHANGING_TASK_COLUMNS))
        self._events = Insert(backend, EVENTS, rows.EVENT_COLUMNS)
        self._lanes = Insert(backend, LANES, rows.LANE_COLUMNS, then=replacing("lane_id", rows.LANE_COLUMNS[1:]))
        self._policies = Insert(backend, POLICIES, rows.POLICY_COLUMNS, then=replacing("model", rows.POLICY_COLUMNS[1:]))
        places = ", ".join(rows.LEARNED_COLUMNS[:3])
        self._learned = Insert(backend, LEARNED, rows.LEARNED_COLUMNS, then=replacing(places, rows.LEARNED_COLUMNS[3:]))
        self._inputs = Insert(backend, TASK_INPUTS, ("key", "task_id"))
        adding = "ON CONFLICT (model, state) DO UPDATE SET tasks = task_counts.tasks + excluded.tasks"
        self._counts = Insert(backend, TASK_COUNTS, ("model", "state", "tasks"), then=adding)

    def guard(self, cursor: DBAPICursor, epoch: int, *, events: int = 0) -> int:
        """Refuses every epoch but the newest; draws numbers for so many events and returns the last that is drawn.

        The controller's row stays locked to the end of the transaction (on SQLite the whole database is), and it is taken before a number
        is drawn: so transactions commit in the order of their numbers, and who has read up to a number never misses a lower one.

        Raises:
            StaleEpochError: a newer epoch was claimed.
        """
        cursor.execute(self._backend.guard, (events,))
        [(newest, last_sequence)] = cursor.fetchall()
        if epoch != newest:
            raise StaleEpochError(rows.stale(epoch, newest))
        return int(last_sequence)

    def write(self, cursor: DBAPICursor, epoch: int, batch: Rows, *, in_doubt: int | None = None) -> int:
        """Stores the batch; the number of the newest event after it.

        `in_doubt`: the last number of a batch of which the caller was told that it was not stored, though that was not certain.

        Raises:
            StaleEpochError: see `Store.write`; the transaction must be rolled back.
        """
        last_sequence = self.guard(cursor, epoch, events=len(batch.events))
        before = last_sequence - len(batch.events)
        if in_doubt == before:
            msg = "a batch whose commit was in doubt had been stored: what is in memory is not what is stored, start again"
            raise StaleEpochError(msg)
        written = {row[0] for row in batch.tasks}
        concerned = {*written, *batch.deleted, *[row[1] for row in batch.events if row[1] is not None]}
        known: dict[str, Place] = {task_id: (model, state) for task_id, model, state in self._known.find(cursor, list(concerned))}
        # First of all, because a new task may have the request id of a deleted one.
        self.delete_tasks(cursor, batch.deleted, last_sequence)
        self._tasks.run(cursor, batch.tasks)
        # Only once: parameters never change, and a task is written at every step of its progress.
        self._inputs.run(cursor, [row for row in batch.inputs if row[1] not in known])
        self.count(cursor, moves(batch.tasks, batch.deleted, known))
        stored = {*known, *written}.difference(batch.deleted)
        numbered = enumerate(batch.events, start=before + 1)
        self._events.run(cursor, [rows.numbered(row, sequence, is_loose=row[1] not in stored) for sequence, row in numbered])
        self._write_lanes(cursor, batch)
        self._learned.run(cursor, batch.learned)
        return last_sequence

    def delete_tasks(self, cursor: DBAPICursor, task_ids: Collection[str], last_sequence: int) -> None:
        """Removes tasks with their events and input keys, without counting; what `guard` returned is kept, as the newest may go."""
        if task_ids:
            self.keep_sequence(cursor, last_sequence)
            for deletion in self._deletions:
                deletion.run(cursor, list(task_ids))

    def keep_sequence(self, cursor: DBAPICursor, last_sequence: int) -> None:
        """Sees to it that no number is given twice though events are removed."""
        cursor.execute(self._keep_sequence, (last_sequence,))

    def count(self, cursor: DBAPICursor, changes: Counter[Place]) -> None:
        """Adds to the numbers of ended tasks per model and state."""
        # Always in one order, and of one text per pair: a statement may not touch a row twice.
        self._counts.run(cursor, [(*place, change) for place, change in sorted(changes.items()) if change])

    def _write_lanes(self, cursor: DBAPICursor, batch: Rows) -> None:
        self._lanes.run(cursor, batch.lanes)
        self._policies.run(cursor, batch.policies)
        for lane_id in batch.forgotten_lanes:
            cursor.execute(self._delete_lane, (lane_id,))


def moves(tasks: Iterable[rows.Row], gone: Iterable[str], known: Mapping[str, Place]) -> Counter[Place]:
    """How a batch changes the numbers of ended tasks per model and state."""
    changes: Counter[Place] = Counter()
    for row in tasks:
        before = known.get(row[0])
        if row[_STATE] in rows.ENDED:
            changes[row[_MODEL] if before is None else before[0], row[_STATE]] += 1
        if before is not None and before[1] in rows.ENDED:
            changes[before] -= 1
    changes.subtract(known[task_id] for task_id in gone if task_id in known and known[task_id][1] in rows.ENDED)
    return changes


def replacing(key: str, columns: Iterable[str]) -> str:
    """Ends an insert that replaces these columns when the key is there already."""
    return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in columns)}"
