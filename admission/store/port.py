"""What admission needs of a store. One contract suite (tests/contract) runs on every implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from admission.core.lanes import LaneSpec
from admission.core.tasks import Event, Task, TaskId, TaskState


class StoreUnavailableError(Exception):
    """The store cannot be written or read now (disk full, locked, away). Nothing of the batch was stored; try the same call again."""


class StaleEpochError(Exception):
    """Another admission has claimed a newer epoch: this one rules no more and must stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One transaction: all of it is stored, or nothing. Held tasks are never in it.

    Attributes:
        tasks: replaced whole, by id.
        deleted: removed with their events.
    """

    tasks: Sequence[Task] = ()
    lanes: Sequence[LaneSpec] = ()
    events: Sequence[Event] = ()
    deleted: Sequence[TaskId] = ()


class TaskSort(StrEnum):
    """Largest or newest first, the task id (ascending) breaking ties."""

    CREATED_AT = "created_at"
    MODEL = "model"
    WIDTH = "width"
    HEIGHT = "height"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """One page of tasks; page counts from 1. Width and height are those in the task's parameters."""

    page: int = 1
    page_size: int = 20
    sort: TaskSort = TaskSort.CREATED_AT
    model: str | None = None
    states: frozenset[TaskState] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """The page and how many there are in all."""

    tasks: tuple[Task, ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A generation session. Only the token's SHA-256 (hex) is kept."""

    session_id: str
    token_sha256: str
    expires_at: datetime


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

    async def write(self, epoch: int, batch: Batch) -> None:
        """Stores the batch durably (on disk when this returns), guarded by the epoch in the same transaction."""
        ...

    async def unfinished(self) -> tuple[Task, ...]:
        """Every task that is queued or leased, or ended but still withdrawn (see Task.is_withdrawn), oldest acceptance first."""
        ...

    async def lanes(self) -> tuple[LaneSpec, ...]:
        """Every lane ever stored, by id."""
        ...

    async def task(self, task_id: TaskId) -> Task | None:
        """The task as stored."""
        ...

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks."""
        ...

    async def events(self, task_id: TaskId) -> tuple[Event, ...]:
        """The task's events, oldest first."""
        ...

    async def add_session(self, session: Session) -> None:
        """Stores a session durably; sessions that ended over a day before are removed on the way."""
        ...

    async def session(self, token_sha256: str) -> Session | None:
        """The session of this token, ended or not."""
        ...
