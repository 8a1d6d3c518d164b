"""Who watches what: tasks and recorded events. Watchers read at their own pace, so a slow one holds up nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from admission.core.tasks import TERMINAL, Event, Model, TaskId
from admission.engine_types import TaskChange, TaskView, UnknownTaskError
from admission.recent_events import RecentEvents
from admission.store.port import EventPage, EventQuery, Store

_PAGE = 256
# Watchers of all events read at most so often: under load they get many events in one page instead of one page for each. Those of a
# queued task are told of a new place as often.
_GATHER_S = 0.05


@dataclass(slots=True, eq=False)
class _Watcher:
    """One watcher of one task: something changed, whether an event was recorded, and the place in which queue it was told."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    has_events: bool = True
    queue: Model | None = None
    place: int | None = None


class Watching:
    """Owns nothing but the bells that it rings; each watcher owns its own generator."""

    def __init__(
        self,
        store: Store,
        view: Callable[[TaskId], Awaitable[TaskView | None]],
        queue: Callable[[Model], Iterable[TaskId]],
        check_that_it_rules: Callable[[], Awaitable[None]],
    ) -> None:
        """`view` shows a task as last made durable, `queue` which tasks of a model wait, in their order; `check_that_it_rules` raises when
        another admission has taken over."""
        self._store = store
        self._view = view
        self._queue = queue
        self._check_that_it_rules = check_that_it_rules
        # Queues that moved since their watchers were told; a timer runs while there are any.
        self._moved: set[Model] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._recent = RecentEvents()
        self._watchers: dict[TaskId, dict[_Watcher, None]] = {}
        self._recorded = asyncio.Event()
        self._followers = 0

    def task_changed(self, task_id: TaskId) -> None:
        """Its newest state is on disk."""
        for watcher in self._watchers.get(task_id, ()):
            watcher.changed.set()

    def queue_moved(self, model: Model) -> None:
        """A task joined or left its queue: others may have another place now."""
        if not self._watchers:
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._tell_places)
        self._moved.add(model)

    def close(self) -> None:
        """Nobody is told of a place any more. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def task_deleted(self, task_id: TaskId) -> None:
        """It is gone from the disk, with its events."""
        self._recent.forget(task_id)
        self.task_changed(task_id)

    def recorded(self, event: Event, sequence: int) -> None:
        """The event is on disk under this number."""
        self._recent.add(event, sequence)
        if event.task_id is not None:
            for watcher in self._watchers.get(event.task_id, ()):
                watcher.has_events = True
                watcher.changed.set()
        if self._followers:
            rung, self._recorded = self._recorded, asyncio.Event()
            rung.set()

    async def watch_task(self, task_id: TaskId, after_sequence: int) -> AsyncGenerator[TaskChange, None]:
        """See `Controller.watch`."""
        if after_sequence:
            # Who goes on after a break may have been told more by an admission that replaced this one. Shown from memory here, a task that
            # has ended would be in work again.
            await self._check_that_it_rules()
        watcher = _Watcher()
        watchers = self._watchers.setdefault(task_id, {})
        watchers[watcher] = None
        try:
            view = await self._view(task_id)
            if view is None:
                raise UnknownTaskError
            while view is not None:
                watcher.changed.clear()
                watcher.queue, watcher.place = view.task.model, view.queue_position
                events: tuple[Event, ...] = ()
                if watcher.has_events:
                    # Taken after the state: what led to it is among them.
                    watcher.has_events = False
                    events = await self._events(task_id, after_sequence)
                    after_sequence = events[-1].sequence if events else after_sequence
                yield TaskChange(view=view, events=events, last_sequence=after_sequence)
                has_ended = view.task.state in TERMINAL and not view.task.is_withdrawn
                if len(events) == _PAGE:
                    watcher.has_events = True
                elif has_ended:
                    return
                else:
                    await watcher.changed.wait()
                view = await self._view(task_id)
        finally:
            watchers.pop(watcher, None)
            if not watchers and self._watchers.get(task_id) is watchers:
                del self._watchers[task_id]

    async def task_events(self, task_id: TaskId) -> tuple[Event, ...]:
        """All that was recorded of the task, oldest first."""
        found: list[Event] = []
        while events := await self._events(task_id, found[-1].sequence if found else 0):
            found += events
        return tuple(found)

    async def watch_events(self, query: EventQuery, *, only_new: bool, follow: bool) -> AsyncGenerator[EventPage, None]:
        """See `Controller.watch_events`."""
        after = await self._store.last_sequence() if only_new else query.after
        self._followers += 1
        try:
            if only_new:
                # Says where the stream begins, so that a reader that breaks off before the first event can go on from here.
                yield EventPage(events=(), last_sequence=after)
            while True:
                # Taken before the read, so that what is recorded during it rings too.
                recorded = self._recorded
                page = await self._store.events(replace(query, after=after))
                if page.last_sequence > after:
                    after = page.last_sequence
                    yield page
                if len(page.events) == query.limit:
                    continue
                if not follow:
                    return
                await recorded.wait()
                await asyncio.sleep(_GATHER_S)
        finally:
            self._followers -= 1

    def _tell_places(self) -> None:
        """Rings for those whose task waits at another place than they were told."""
        self._timer = None
        moved, self._moved = self._moved, set()
        waiting = Counter(one.queue for watchers in self._watchers.values() for one in watchers if one.place is not None)
        for model in moved:
            for place, task_id in enumerate(self._queue(model) if waiting[model] else ()):
                for watcher in self._watchers.get(task_id, ()):
                    if watcher.place is not None:
                        waiting[model] -= 1
                        if watcher.place != place:
                            watcher.changed.set()
                if waiting[model] <= 0:
                    # The rest of a long queue is nobody's who watches.
                    break

    async def _events(self, task_id: TaskId, after: int) -> tuple[Event, ...]:
        """A page of the task's events after this one."""
        recent = self._recent.of(task_id, after, _PAGE)
        if recent is not None:
            return recent
        return (await self._store.events(EventQuery(after=after, task_id=task_id, limit=_PAGE))).events
