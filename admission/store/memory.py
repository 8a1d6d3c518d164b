"""A store without durability, for tests of other parts: the same rows and the same answers as the durable one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from admission.core.lanes import LaneSpec
from admission.core.tasks import Event, Task, TaskId
from admission.store import rows
from admission.store.port import Batch, Session, StaleEpochError, StoreUnavailableError, TaskPage, TaskQuery


class MemoryStore:
    """Keeps everything in this object, closed or open, and nothing beyond it."""

    def __init__(self, *, now: Callable[[], datetime] = rows.utc_now) -> None:
        """Is empty.

        Args:
            now: aware UTC time, for the removal of old sessions only.
        """
        self._now = now
        self._is_open = False
        self._epoch = 0
        self._tasks: dict[str, rows.Row] = {}
        self._lanes: dict[str, rows.Row] = {}
        self._events: list[rows.Row] = []
        self._sessions: dict[str, rows.Row] = {}

    async def open(self) -> None:
        """Lets the calls through."""
        self._is_open = True

    async def close(self) -> None:
        """Refuses calls from now on. May be called twice."""
        self._is_open = False

    async def claim_epoch(self) -> int:
        """Takes the next controller epoch."""
        await self._enter()
        self._epoch += 1
        return self._epoch

    async def write(self, epoch: int, batch: Batch) -> None:
        """Stores the batch; deletions come last."""
        await self._enter()
        if epoch != self._epoch:
            raise StaleEpochError(rows.stale(epoch, self._epoch))
        # Whatever is wrong with the batch raises here, before anything is changed.
        new = rows.batch_rows(batch)
        self._tasks.update({row["task_id"]: row for row in new.tasks})
        self._lanes.update({row["lane_id"]: row for row in new.lanes})
        self._events.extend(new.events)
        for task_id in new.deleted:
            self._tasks.pop(task_id, None)
        self._events = [row for row in self._events if row["task_id"] not in new.deleted] if new.deleted else self._events

    async def unfinished(self) -> tuple[Task, ...]:
        """Every task that is queued, leased or withdrawn, oldest acceptance first."""
        await self._enter()
        found = [row for row in self._tasks.values() if row["state"] in rows.UNFINISHED or row["is_withdrawn"]]
        found.sort(key=lambda row: (row["queued_at"] or row["created_at"], row["created_at"], row["task_id"]))
        return tuple(rows.task_of(row) for row in found)

    async def lanes(self) -> tuple[LaneSpec, ...]:
        """Every lane ever stored, by id."""
        await self._enter()
        return tuple(rows.lane_of(self._lanes[lane_id]) for lane_id in sorted(self._lanes))

    async def task(self, task_id: TaskId) -> Task | None:
        """The task as stored."""
        await self._enter()
        row = self._tasks.get(task_id)
        return None if row is None else rows.task_of(row)

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks."""
        first = rows.first_index(query)
        await self._enter()
        found = [
            row
            for row in self._tasks.values()
            if (query.model is None or row["model"] == query.model) and (not query.states or row["state"] in query.states)
        ]
        # Two stable sorts: largest first, and among equals by id.
        found.sort(key=lambda row: str(row["task_id"]))
        found.sort(key=lambda row: row[query.sort.value], reverse=True)
        return TaskPage(tasks=tuple(rows.task_of(row) for row in found[first : first + query.page_size]), total=len(found))

    async def events(self, task_id: TaskId) -> tuple[Event, ...]:
        """The task's events in the order in which they were written."""
        await self._enter()
        return tuple(rows.event_of(row) for row in self._events if row["task_id"] == task_id)

    async def add_session(self, session: Session) -> None:
        """Stores a session; one with the same token is replaced, sessions that ended over a day ago are removed."""
        row = rows.session_row(session)
        await self._enter()
        oldest = self._now() - rows.SESSIONS_KEPT
        self._sessions = {token: kept for token, kept in self._sessions.items() if kept["expires_at"] >= oldest}
        self._sessions[session.token_sha256] = row

    async def session(self, token_sha256: str) -> Session | None:
        """The session of this token, ended or not."""
        await self._enter()
        row = self._sessions.get(token_sha256)
        return None if row is None else rows.session_of(row)

    async def _enter(self) -> None:
        """Gives way once, as a call to a database does, so that tests meet the same interleavings."""
        if not self._is_open:
            msg = "the store is not open"
            raise StoreUnavailableError(msg)
        await asyncio.sleep(0)
