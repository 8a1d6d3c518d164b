"""What admission needs of a store for tasks and lanes (`access_port` has the rest). One contract suite runs on every implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from admission.core.lanes import KnownLane, ModelPolicy
from admission.core.learned import Learned
from admission.core.tasks import Event, LaneId, Task, TaskId, TaskState
from runtime.values import quickly_made


class StoreUnavailableError(Exception):
    """The store cannot be written or read now (disk full, locked, away). Nothing of the batch was stored; try the same call again."""


class RequestTakenError(ValueError):
    """The batch has a second task with an idempotency key of its owner; nothing of it was stored."""


class StaleEpochError(Exception):
    """Another admission has claimed a newer epoch, or the store holds more than this one knows: it rules no more and must stop."""


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One transaction: all of it is stored, or nothing. Held tasks are never in it.

    Attributes:
        tasks: by id. What a task was accepted with (owner, request_id, fingerprint, model, mode, parameters, tokens, created_at, trace)
            stays as it was first stored; everything else is replaced.
        lanes, policies, learned: replaced whole, by id; what was learned by its place.
        events: numbered by the store, in this order, behind every event that is stored already.
        deleted: removed with their events; what the batch says of them beside that is not stored.
        forgotten_lanes: removed; their events stay.
    """

    tasks: Sequence[Task] = ()
    lanes: Sequence[KnownLane] = ()
    policies: Sequence[ModelPolicy] = ()
    learned: Sequence[Learned] = ()
    events: Sequence[Event] = ()
    deleted: Sequence[TaskId] = ()
    forgotten_lanes: Sequence[LaneId] = ()


class TaskSort(StrEnum):
    """Largest or newest first, the task id (ascending) breaking ties."""

    CREATED_AT = "created_at"
    MODEL = "model"
    WIDTH = "width"
    HEIGHT = "height"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """One page of tasks; page counts from 1. Width and height are those in the task's parameters.

    Attributes:
        owner: only this owner's tasks are listed and counted; None: everyone's.
    """

    page: int = 1
    page_size: int = 20
    sort: TaskSort = TaskSort.CREATED_AT
    model: str | None = None
    states: frozenset[TaskState] = frozenset()
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """The page and how many there are in all."""

    tasks: tuple[Task, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Stored events with a sequence above `after`, oldest first, at most `limit`; an empty or None filter lets all pass."""

    after: int = 0
    limit: int = 256
    event_types: frozenset[str] = frozenset()
    task_id: TaskId | None = None
    lane_id: LaneId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """The events, and how far the store was searched: pass `last_sequence` as the next `after`.

    When the page is not full, last_sequence is the newest event of any kind (at least `after`), so that a filter that lets little pass
    does not search the same events again.
    """

    events: tuple[Event, ...]
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is too old to keep: ended tasks by state, last changed before a time, and events without a task, recorded before a time.

    Attributes:
        limit: at most so many tasks and so many events are removed in one call. Acceptances wait while it runs, some tenths of a
            millisecond per task.
    """

    tasks_before: Mapping[TaskState, datetime]
    events_before: datetime | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What one call removed; the tasks' files are still to be removed."""

    task_ids: tuple[TaskId, ...] = ()
    events: int = 0


class Store(Protocol):
    """Every call may raise StoreUnavailableError; none blocks the event loop."""

    async def open(self) -> None:
        """Connects and brings the schema up to date."""
        ...

    async def close(self) -> None:
        """Ends every connection and thread. May be called twice."""
        ...

    async def claim_epoch(self) -> int:
        """Takes the next controller epoch (1 at first), durably. From then on writes with an older one raise StaleEpochError."""
        ...

    async def epoch(self) -> int:
        """The newest epoch that was claimed; 0 when there was none."""
        ...

    async def write(self, epoch: int, batch: Batch) -> int:
        """Stores the batch durably (on disk when this returns), guarded by the epoch in the same transaction.

        Returns the sequence of the newest event. The batch's events have the numbers up to it, in their order and without a gap; those that
        name a task of `deleted` are not stored and have none.

        Raises:
            StaleEpochError: a newer epoch was claimed.
            RequestTakenError: a second task with a request id of its owner.
            ValueError, TypeError: the batch holds what cannot be stored: a bug.
        """
        ...

    async def unfinished(self) -> tuple[Task, ...]:
        """Every task that is queued or leased, or ended but still withdrawn (see Task.is_withdrawn), oldest acceptance first."""
        ...

    async def lanes(self) -> tuple[KnownLane, ...]:
        """Every lane that is not forgotten, by id."""
        ...

    async def policies(self) -> tuple[ModelPolicy, ...]:
        """Every policy, by model."""
        ...

    async def learned(self) -> tuple[Learned, ...]:
        """All that was learned, by place."""
        ...

    async def task_of_request(self, owner: str, request_id: str) -> Task | None:
        """The owner's task with this idempotency key; request_id is not empty. At most one: a second cannot be stored."""
        ...

    async def task(self, task_id: TaskId) -> Task | None:
        """The task as stored."""
        ...

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks."""
        ...

    async def events(self, query: EventQuery) -> EventPage:
        """Stored events with their sequences."""
        ...

    async def last_sequence(self) -> int:
        """Sequence of the newest event; 0 when there was never one."""
        ...

    async def prune(self, epoch: int, retention: Retention) -> Pruned:
        """Removes, durably and guarded by the epoch, what is too old: ended tasks (never one that is withdrawn) with their events, oldest
        first, and old events that name no stored task. Nothing removed at all means that nothing is left to remove."""
        ...

    async def unused_inputs(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of these object keys (at most 500) that no stored task has as an input image. `input_keys` says where they stand."""
        ...
