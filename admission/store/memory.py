"""A store without durability, for tests of other parts: the same rows and the same answers as the durable one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from admission.core.lanes import KnownLane, ModelPolicy
from admission.core.learned import Learned, Place
from admission.core.tasks import TERMINAL, Task, TaskId, input_keys
from admission.store import rows
from admission.store.access_memory import MemoryAccess
from admission.store.port import (
    Batch,
    EventPage,
    EventQuery,
    Pruned,
    RequestTakenError,
    Retention,
    StaleEpochError,
    StoreUnavailableError,
    TaskPage,
    TaskQuery,
)
from admission.store.rows import Row

_TASK = {name: index for index, name in enumerate(rows.TASK_COLUMNS)}
_EVENT = {name: index for index, name in enumerate(rows.EVENT_COLUMNS)}
_FIXED = len(rows.FIXED_TASK_COLUMNS)


class MemoryStore:
    """Keeps everything in this object, closed or open, and nothing beyond it.

    Attributes:
        access: sessions and the audit log, open as long as the store is.
    """

    def __init__(self, *, now: Callable[[], datetime] = rows.utc_now) -> None:
        """Is empty.

        Args:
            now: aware UTC time, for the removal of old sessions only.
        """
        self._is_open = False
        self._epoch = 0
        self._last_sequence = 0
        self._tasks: dict[str, Row] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._lanes: dict[str, Row] = {}
        self._policies: dict[str, Row] = {}
        self._learned: dict[Place, Row] = {}
        self._events: list[Row] = []
        self.access = MemoryAccess(self._enter, now=now)

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

    async def epoch(self) -> int:
        """The newest epoch that was claimed."""
        await self._enter()
        return self._epoch

    async def write(self, epoch: int, batch: Batch) -> int:
        """Stores the batch."""
        await self._enter()
        self._guard(epoch)
        # Whatever is wrong with the batch raises before anything is changed.
        gone = set(batch.deleted)
        events = [event for event in batch.events if event.task_id not in gone]
        numbered = enumerate(events, start=self._last_sequence + 1)
        new_tasks = {task.task_id: rows.task_row(task, rows.utc) for task in batch.tasks if task.task_id not in gone}
        new_events = [rows.numbered(rows.event_row(event, rows.utc), sequence, is_loose=False) for sequence, event in numbered]
        new_lanes = {str(lane.spec.lane_id): rows.lane_row(lane) for lane in batch.lanes}
        new_learned = {one.place: rows.learned_row(one) for one in batch.learned}
        new_policies = {str(policy.model): rows.policy_row(policy, rows.utc) for policy in batch.policies}
        self._requests = self._requests_with(new_tasks, gone)
        self._remove(gone)
        for task_id, row in new_tasks.items():
            self._tasks[task_id] = self._tasks.get(task_id, row)[:_FIXED] + row[_FIXED:]
        self._events += new_events
        self._last_sequence += len(new_events)
        self._policies.update(new_policies)
        self._learned.update(new_learned)
        self._lanes.update(new_lanes)
        for lane_id in batch.forgotten_lanes:
            self._lanes.pop(lane_id, None)
        return self._last_sequence

    async def prune(self, epoch: int, retention: Retention) -> Pruned:
        """Removes what is too old."""
        await self._enter()
        self._guard(epoch)
        before = {state.value: at for state, at in retention.tasks_before.items() if state in TERMINAL}
        old = [
            row
            for row in self._tasks.values()
            if not _of_task(row, "is_withdrawn")
            and _of_task(row, "state") in before
            and _of_task(row, "updated_at") < before[_of_task(row, "state")]
        ]
        old.sort(key=lambda row: (_of_task(row, "updated_at"), row[0]))
        task_ids = tuple(TaskId(row[0]) for row in old[: retention.limit])
        self._requests = self._requests_with({}, task_ids)
        self._remove(task_ids)
        loose = [
            row
            for row in self._events
            if retention.events_before is not None
            and _of_event(row, "created_at") < retention.events_before
            and _of_event(row, "task_id") not in self._tasks
        ]
        loose.sort(key=lambda row: (_of_event(row, "created_at"), row[0]))
        removed = {row[0] for row in loose[: retention.limit]}
        self._events = [row for row in self._events if row[0] not in removed]
        return Pruned(task_ids=task_ids, events=len(removed))

    async def unfinished(self) -> tuple[Task, ...]:
        """Every task that is queued, leased or withdrawn, oldest acceptance first."""
        await self._enter()
        kept = self._tasks.values()
        found = [rows.task_of(row) for row in kept if _of_task(row, "state") in rows.UNFINISHED or _of_task(row, "is_withdrawn")]
        return tuple(sorted(found, key=rows.acceptance))

    async def lanes(self) -> tuple[KnownLane, ...]:
        """Every lane that is not forgotten, by id."""
        await self._enter()
        return tuple(rows.lane_of(self._lanes[lane_id]) for lane_id in sorted(self._lanes))

    async def policies(self) -> tuple[ModelPolicy, ...]:
        """Every policy, by model."""
        await self._enter()
        return tuple(rows.policy_of(self._policies[model]) for model in sorted(self._policies))

    async def learned(self) -> tuple[Learned, ...]:
        """All that was learned, by place."""
        await self._enter()
        return tuple(rows.learned_of(self._learned[place]) for place in sorted(self._learned))

    async def task(self, task_id: TaskId) -> Task | None:
        """The task as stored."""
        await self._enter()
        row = self._tasks.get(task_id)
        return None if row is None else rows.task_of(row)

    async def task_of_request(self, owner: str, request_id: str) -> Task | None:
        """The owner's task with this idempotency key."""
        await self._enter()
        task_id = self._requests.get((owner, request_id))
        return None if task_id is None else rows.task_of(self._tasks[task_id])

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks."""
        first = rows.first_index(query)
        await self._enter()
        found = [
            row
            for row in self._tasks.values()
            if (query.model is None or _of_task(row, "model") == query.model)
            and (query.owner is None or _of_task(row, "owner") == query.owner)
            and (not query.states or _of_task(row, "state") in query.states)
        ]
        # Two stable sorts: largest first, and among equals by id.
        found.sort(key=lambda row: str(row[0]))
        found.sort(key=lambda row: _of_task(row, query.sort.value), reverse=True)
        return TaskPage(tasks=tuple(rows.task_of(row) for row in found[first : first + query.page_size]), total=len(found))

    async def events(self, query: EventQuery) -> EventPage:
        """Stored events with their sequences."""
        rows.check_events_query(query)
        await self._enter()
        found = [row for row in self._events if row[0] > query.after and _passes(row, query)]
        page = tuple(rows.event_of(row) for row in found[: query.limit])
        if len(page) == query.limit:
            return EventPage(events=page, last_sequence=page[-1].sequence)
        return EventPage(events=page, last_sequence=max(query.after, self._last_sequence))

    async def last_sequence(self) -> int:
        """Sequence of the newest event ever; 0 when there was none."""
        await self._enter()
        return self._last_sequence

    async def unused_inputs(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of these object keys that no stored task has as an input image."""
        await self._enter()
        tasks = (rows.task_of(row) for row in self._tasks.values())
        return frozenset(keys).difference(*(input_keys(task.parameters) for task in tasks))

    async def _enter(self) -> None:
        """Gives way once, as a call to a database does, so that tests meet the same interleavings."""
        if not self._is_open:
            msg = "the store is not open"
            raise StoreUnavailableError(msg)
        await asyncio.sleep(0)

    def _guard(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise StaleEpochError(rows.stale(epoch, self._epoch))

    def _requests_with(self, new: dict[TaskId, Row], gone: Collection[str]) -> dict[tuple[str, str], str]:
        """Which task each idempotency key will belong to. Raises RequestTakenError when two would have one."""
        requests = {key: task_id for key, task_id in self._requests.items() if task_id not in gone}
        for task_id, row in new.items():
            request_id = _of_task(row, "request_id")
            if request_id is None or task_id in self._tasks:
                continue
            if requests.setdefault((_of_task(row, "owner"), request_id), task_id) != task_id:
                msg = f"task {task_id} has the request id of another task of the same owner"
                raise RequestTakenError(msg)
        return requests

    def _remove(self, task_ids: Collection[str]) -> None:
        if not task_ids:
            return
        removed = set(task_ids)
        for task_id in removed:
            self._tasks.pop(task_id, None)
        self._events = [row for row in self._events if _of_event(row, "task_id") not in removed]


def _of_task(row: Row, name: str) -> Any:
    return row[_TASK[name]]


def _of_event(row: Row, name: str) -> Any:
    return row[_EVENT[name]]


def _passes(row: Row, query: EventQuery) -> bool:
    return (
        (query.task_id is None or _of_event(row, "task_id") == query.task_id)
        and (query.lane_id is None or _of_event(row, "lane_id") == query.lane_id)
        and (not query.event_types or _of_event(row, "event_type") in query.event_types)
    )
