"""Simulated watchers: of one task, and of all events; a lost connection is opened again with the last sequence that came."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from random import Random
from typing import TYPE_CHECKING, Any

from admission.core.tasks import TERMINAL, Event, Task, TaskId
from admission.engine_types import UnknownTaskError
from admission.store.port import EventQuery, StaleEpochError, StoreUnavailableError

if TYPE_CHECKING:
    from admission.engine import Engine
    from tests.simulation.admissions import Admission
    from tests.simulation.world import World


class Watcher:
    """Watches one task; a lost connection is opened again with the last sequence that came."""

    def __init__(self, world: World, task_id: TaskId, random: Random) -> None:
        self.task_id = task_id
        self.is_over = False
        self.seen: list[int] = []
        self._world = world
        self._random = random
        self._connection = 0
        self._handler: asyncio.Task[Any] | None = None
        self._down_s = 0.0
        self._last = 0
        self._state = ""

    def connect(self) -> None:
        """Opens a connection, now or when someone serves."""
        if self.is_over:
            return
        self._connection += 1
        front = self._world.front()
        if front is None:
            self._world.after(0.5, self.connect)
            return
        name = f"watch-{self.task_id}-{self._connection}"
        self._handler = front.spawn(self._serve(front.engine, self._connection, self._last), name)
        front.calls[self._handler] = self
        if self._random.random() < 0.5:
            self._world.after(self._random.random() * 10.0, self._cut, self._connection, front)

    def lost(self) -> None:
        """The admission that served it is gone."""
        self._world.after(self._random.random(), self.connect)

    def check(self) -> None:
        """It saw every event once, in order."""
        stored = self._world.disk.events_of.get(self.task_id, [])
        name = self._world.name_of(self.task_id)
        if self.task_id in self._world.checker.deleted:
            return
        known = [event.sequence for event in stored if event.sequence <= self._last]
        self._world.checker.expect(self.seen == known, f"a watcher of {name} saw events {self.seen} of {known}")
        rest = [event.event_type for event in stored if event.sequence > self._last]
        ends = [kind for kind in rest if kind in ("memory_record", "attempt_ended", "attempt_started")]
        self._world.checker.expect(not ends, f"a watcher of {name} was let go before {ends}")

    async def _serve(self, engine: Engine, connection: int, after: int) -> None:
        end = "over"
        try:
            async with aclosing(engine.watch(self.task_id, after)) as changes:
                async for change in changes:
                    self._send(self._take, connection, change.events, change.last_sequence, change.view.task)
        except UnknownTaskError:
            there = self.task_id in self._world.disk.tasks
            self._world.checker.expect(not there, f"{self._world.name_of(self.task_id)} is unknown to a watcher and on disk")
            end = "unknown"
        except (StoreUnavailableError, StaleEpochError):
            end = "unavailable"
        self._send(self._ended, connection, end)

    def _send(self, function: Any, *args: object) -> None:
        self._down_s = self._world.network.arrival_s(self._down_s)
        self._world.at(self._down_s, function, *args)

    def _take(self, connection: int, events: tuple[Event, ...], last: int, task: Task) -> None:
        if connection != self._connection:
            return
        name = self._world.name_of(self.task_id)
        for event in events:
            is_next = event.sequence > (self.seen[-1] if self.seen else 0)
            self._world.checker.expect(is_next, f"a watcher of {name} was told event {event.sequence} after {self.seen}")
            self.seen.append(event.sequence)
        self._world.checker.expect(last >= self._last, f"a watcher of {name} went back to sequence {last}")
        self._last = max(self._last, last)
        if self._state in TERMINAL:
            self._world.checker.expect(task.state == self._state, f"a watcher of {name} saw {self._state} and then {task.state}")
        self._state = task.state

    def _ended(self, connection: int, end: str) -> None:
        if connection != self._connection:
            return
        if end == "unavailable":
            self._world.after(0.5, self.connect)
        else:
            self.is_over = True

    def _cut(self, connection: int, front: Admission) -> None:
        if connection == self._connection and not self.is_over and self._handler is not None:
            # What is on its way is lost; admission hears that the reader is gone.
            self._connection += 1
            front.process.after(0.0, self._handler.cancel)
            self._world.after(self._random.random() * 2.0, self.connect)


class EventReader:
    """Follows all events from the first on, across crashes and restarts."""

    def __init__(self, world: World) -> None:
        self.seen: list[int] = []
        self._world = world
        self._last = 0
        self._connection = 0
        self._down_s = 0.0
        world.after(1.0, self.connect)

    @property
    def is_caught_up(self) -> bool:
        """It has seen how far the disk is."""
        return self._last >= self._world.disk.last_sequence

    def connect(self) -> None:
        """Opens a connection, now or when someone serves."""
        self._connection += 1
        front = self._world.front()
        if front is None:
            self._world.after(0.5, self.connect)
            return
        handler = front.spawn(self._serve(front.engine, self._connection), f"events-{self._connection}")
        front.calls[handler] = self

    def lost(self) -> None:
        """The admission that served it is gone."""
        self._connection += 1
        self._world.after(0.5, self.connect)

    def check(self) -> None:
        """It saw every event that is still stored, once, in order."""
        stored = {event.sequence for event in self._world.disk.events}
        missed = sorted(sequence for sequence in stored - set(self.seen) if sequence <= self._last)
        self._world.checker.expect(not missed, f"the reader of all events missed {missed}")
        text = f"the reader of all events is at {self._last} of {self._world.disk.last_sequence}"
        self._world.checker.expect(self.is_caught_up, text)

    async def _serve(self, engine: Engine, connection: int) -> None:
        try:
            async with aclosing(engine.watch_events(EventQuery(after=self._last), only_new=False, follow=True)) as pages:
                async for page in pages:
                    self._send(self._take, connection, page.events, page.last_sequence)
        except StoreUnavailableError:
            self._send(self._again, connection)

    def _send(self, function: Any, *args: object) -> None:
        self._down_s = self._world.network.arrival_s(self._down_s)
        self._world.at(self._down_s, function, *args)

    def _take(self, connection: int, events: tuple[Event, ...], last: int) -> None:
        if connection != self._connection:
            return
        for event in events:
            is_next = event.sequence > (self.seen[-1] if self.seen else 0)
            self._world.checker.expect(is_next, f"the reader of all events was told {event.sequence} after {self.seen[-1:]}")
            self.seen.append(event.sequence)
        self._world.checker.expect(last >= self._last, f"the reader of all events went back to {last}")
        self._last = max(self._last, last)

    def _again(self, connection: int) -> None:
        if connection == self._connection:
            self.lost()
