"""The model store: a disk that survives every crash, and a connection to it that takes time, fails, and dies with its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from admission.core.lanes import KnownLane, ModelPolicy
from admission.core.learned import Learned, Place
from admission.core.tasks import TERMINAL, Event, LaneId, Model, Task, TaskId
from admission.store.port import (
    Batch,
    EventPage,
    EventQuery,
    Pruned,
    Retention,
    StaleEpochError,
    StoreUnavailableError,
    TaskPage,
    TaskQuery,
)
from tests.simulation.loop import Loop, Process


@dataclass(slots=True)
class Faults:
    """What is wrong with the disk now.

    Attributes:
        full_until_s, locked_until_s: writes (locked: reads too) fail until then.
        longest_s: how long a write may take.
        crash: at the next write the process that asks for it dies, before or after it is applied.
    """

    full_until_s: float = 0.0
    locked_until_s: float = 0.0
    longest_s: float = 0.003
    crash: str = ""


class Disk:
    """What is stored. `on_write` is called with every batch right before it is applied, `on_deleted` for every removed task."""

    def __init__(self) -> None:
        self.epoch = 0
        self.tasks: dict[TaskId, Task] = {}
        self.unfinished: dict[TaskId, Task] = {}
        self.lanes: dict[LaneId, KnownLane] = {}
        self.policies: dict[Model, ModelPolicy] = {}
        self.learned: dict[Place, Learned] = {}
        self.events: list[Event] = []
        self.events_of: dict[TaskId, list[Event]] = {}
        self.of_request: dict[tuple[str, str], TaskId] = {}
        self.faults = Faults()
        self.on_write: Callable[[int, Batch], None] = lambda epoch, batch: None
        self._sequence = 0

    @property
    def last_sequence(self) -> int:
        """Of the newest event that there ever was."""
        return self._sequence

    def apply(self, epoch: int, batch: Batch) -> None:
        """One transaction."""
        self.guard(epoch)
        self.on_write(epoch, batch)
        for task in batch.tasks:
            self._put(task)
        for known in batch.lanes:
            self.lanes[known.spec.lane_id] = known
        for policy in batch.policies:
            self.policies[policy.model] = policy
        for learned in batch.learned:
            self.learned[learned.place] = learned
        for event in batch.events:
            self._sequence += 1
            numbered = replace(event, sequence=self._sequence)
            self.events.append(numbered)
            if event.task_id is not None:
                self.events_of.setdefault(event.task_id, []).append(numbered)
        self._remove(batch.deleted)
        for lane_id in batch.forgotten_lanes:
            self.lanes.pop(lane_id, None)

    def guard(self, epoch: int) -> None:
        """Only the newest epoch writes."""
        if epoch != self.epoch:
            raise StaleEpochError(f"epoch {epoch} is over, {self.epoch} rules")

    def _put(self, task: Task) -> None:
        self.tasks[task.task_id] = task
        if task.state not in TERMINAL or task.is_withdrawn:
            self.unfinished[task.task_id] = task
        else:
            self.unfinished.pop(task.task_id, None)
        if task.request_id:
            self.of_request[(task.owner, task.request_id)] = task.task_id

    def _remove(self, task_ids: Sequence[TaskId]) -> None:
        for task_id in task_ids:
            task = self.tasks.pop(task_id, None)
            self.unfinished.pop(task_id, None)
            if task is not None and self.of_request.get((task.owner, task.request_id)) == task_id:
                del self.of_request[(task.owner, task.request_id)]
            if self.events_of.pop(task_id, None):
                self.events = [event for event in self.events if event.task_id != task_id]


class ModelStore:
    """One admission's connection: the port of the store, with seeded times on the way there and on the way back."""

    def __init__(self, disk: Disk, loop: Loop, process: Process, random: Random) -> None:
        self._disk = disk
        self._loop = loop
        self._process = process
        self._random = random

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def claim_epoch(self) -> int:
        await self._way(self._disk.faults.longest_s)
        self._refuse_if_broken(is_write=True)
        self._disk.epoch += 1
        epoch = self._disk.epoch
        await self._way(self._disk.faults.longest_s)
        return epoch

    async def epoch(self) -> int:
        await self._read()
        return self._disk.epoch

    async def write(self, epoch: int, batch: Batch) -> int:
        await self._way(self._disk.faults.longest_s)
        await self._crash_if("before")
        self._refuse_if_broken(is_write=True)
        self._disk.apply(epoch, batch)
        # Read now: another admission may write while the answer is on its way.
        last_sequence = self._disk.last_sequence
        await self._crash_if("after")
        await self._way(self._disk.faults.longest_s)
        return last_sequence

    async def unfinished(self) -> tuple[Task, ...]:
        await self._read()
        found = self._disk.unfinished.values()
        return tuple(sorted(found, key=lambda task: (task.queued_at or task.created_at, task.created_at, task.task_id)))

    async def lanes(self) -> tuple[KnownLane, ...]:
        await self._read()
        return tuple(self._disk.lanes[lane_id] for lane_id in sorted(self._disk.lanes))

    async def policies(self) -> tuple[ModelPolicy, ...]:
        await self._read()
        return tuple(self._disk.policies[model] for model in sorted(self._disk.policies))

    async def learned(self) -> tuple[Learned, ...]:
        await self._read()
        return tuple(self._disk.learned[place] for place in sorted(self._disk.learned))

    async def task_of_request(self, owner: str, request_id: str) -> Task | None:
        await self._read()
        task_id = self._disk.of_request.get((owner, request_id))
        return None if task_id is None else self._disk.tasks[task_id]

    async def task(self, task_id: TaskId) -> Task | None:
        await self._read()
        return self._disk.tasks.get(task_id)

    async def page(self, query: TaskQuery) -> TaskPage:
        await self._read()
        found = sorted(self._disk.tasks.values(), key=lambda task: (task.created_at, task.task_id), reverse=True)
        first = (query.page - 1) * query.page_size
        return TaskPage(tasks=tuple(found[first : first + query.page_size]), total=len(found))

    async def events(self, query: EventQuery) -> EventPage:
        await self._read()
        disk = self._disk
        some = disk.events if query.task_id is None else disk.events_of.get(query.task_id, [])
        found = tuple(event for event in some if event.sequence > query.after and _passes(query, event))[: query.limit]
        is_full = len(found) == query.limit
        return EventPage(events=found, last_sequence=found[-1].sequence if is_full else max(query.after, disk.last_sequence))

    async def last_sequence(self) -> int:
        await self._read()
        return self._disk.last_sequence

    async def prune(self, epoch: int, retention: Retention) -> Pruned:
        await self._read()
        self._disk.guard(epoch)
        # Histories are shorter than any retention.
        return Pruned()

    async def unused_inputs(self, keys: Sequence[str]) -> frozenset[str]:
        await self._read()
        return frozenset(keys)

    async def _read(self) -> None:
        await self._way(0.002)
        self._refuse_if_broken(is_write=False)

    async def _way(self, longest_s: float) -> None:
        await asyncio.sleep(self._random.random() * longest_s)

    async def _crash_if(self, moment: str) -> None:
        if self._disk.faults.crash == moment:
            self._disk.faults.crash = ""
            self._process.die()
            await asyncio.sleep(0)

    def _refuse_if_broken(self, *, is_write: bool) -> None:
        now_s, faults = self._loop.time(), self._disk.faults
        if now_s < faults.locked_until_s:
            raise StoreUnavailableError("the database is locked")
        if is_write and now_s < faults.full_until_s:
            raise StoreUnavailableError("the disk is full")


def _passes(query: EventQuery, event: Event) -> bool:
    return (not query.event_types or event.event_type in query.event_types) and (query.lane_id is None or event.lane_id == query.lane_id)
