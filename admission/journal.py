"""The one writer: decisions reach the disk in their order, many in one commit, and only then take effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat

import structlog

from admission.core.commands import (
    Command,
    DiscardTask,
    ForgetLane,
    PersistLane,
    PersistLearned,
    PersistPolicy,
    PersistTask,
    Record,
    ReplyAccepted,
    SendWish,
)
from admission.core.lanes import KnownLane, ModelPolicy
from admission.core.learned import Learned, Place
from admission.core.tasks import Event, LaneId, Model, Task, TaskId
from admission.crowd import Crowd
from admission.observer import SILENT, CommitObserver
from admission.store.port import Batch, RequestTakenError, Store, StoreUnavailableError

_log = structlog.get_logger()

# How long the writer waits before it tries a failed batch again: quick at first, so that a short lock costs little.
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0
# More decisions than a busy admission makes during one commit: the store stalls, and what a later decision overtakes need not be kept.
_FOLDED_AT = 256

# Nothing is to be done when these are on disk.
_SILENT = (PersistLane, ForgetLane, PersistPolicy, PersistLearned)
_WRITES = (PersistTask, *_SILENT, Record)


@dataclass(slots=True, kw_only=True)
class _Entry:
    """The commands of one decision, or a deletion; every `waiters` is answered when it is on disk."""

    commands: Sequence[Command] = ()
    deleted: Sequence[TaskId] = ()
    waiters: Sequence[asyncio.Future[None]] = ()
    writes: bool = False

    def __post_init__(self) -> None:
        self.writes = bool(self.deleted) or any(isinstance(command, _WRITES) for command in self.commands)

    def accepted(self) -> list[TaskId]:
        """Tasks whose acceptance this entry would make durable."""
        return [command.task.task_id for command in self.commands if isinstance(command, PersistTask) and command.accepts]


@dataclass(slots=True)
class _Pending:
    """What waits for the writer, in the order of the decisions."""

    entries: list[_Entry] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Journal:
    """Group commit: while one batch is being written the next one gathers; a batch is one transaction and costs one fsync.

    Law: the effects of a decision follow its write and the effects of all decisions before it.
    """

    def __init__(
        self,
        store: Store,
        epoch: int,
        carry_out: Callable[[Command], None],
        recorded: Callable[[Event, int], None],
        not_stored: Callable[[frozenset[TaskId]], None],
        *,
        observer: CommitObserver = SILENT,
    ) -> None:
        """`carry_out` is called for each command with an effect beside or after its write, `recorded` for each event that is on disk, with
        its number, `not_stored` for acceptances that the store refused."""
        self._store = store
        self._epoch = epoch
        self._carry_out = carry_out
        self._recorded = recorded
        self._not_stored = not_stored
        self._observer = observer
        self._pending = _Pending()
        self._crowd = Crowd()
        self._is_writing = False

    def append(self, commands: Sequence[Command]) -> None:
        """Takes the commands of one decision. Those of a decision that writes nothing take effect at once if nothing is before them."""
        self._append(_Entry(commands=commands))

    def gathered(self) -> None:
        """Their caller has gathered what was appended in this turn of the loop: it is written without a wait for more."""
        if self._pending.entries:
            self._crowd.all_here()

    async def delete(self, task_id: TaskId) -> None:
        """Removes a task; returns when that is on disk. Its files are removed after that, whether someone still waits here or not."""
        await self._append_and_wait(_Entry(deleted=(task_id,), commands=(DiscardTask(task_id=task_id),)))

    async def flushed(self) -> None:
        """Returns when every decision so far is on disk and has taken effect."""
        if self._is_writing or self._pending.entries:
            await self._append_and_wait(_Entry())

    async def run(self) -> None:
        """Writes until cancelled. Raises StaleEpochError when another admission rules."""
        retry_s = _FIRST_RETRY_S
        written, loop = 0, asyncio.get_running_loop()
        while True:
            idle_since_s = loop.time()
            await self._pending.wake.wait()
            await self._crowd.gathered(written, loop.time() - idle_since_s, lambda: len(self._pending.entries))
            self._pending.wake.clear()
            entries, self._pending.entries = self._pending.entries, []
            written = len(entries)
            numbers: Iterator[int] = repeat(0)
            self._is_writing = True
            try:
                if any(entry.writes for entry in entries):
                    numbers = await self._write(entries)
            except RequestTakenError as error:
                # A caller said that its key was new, and it was not. Sent again, it will be looked for.
                _log.warning("request_id_taken", error=str(error))
                if not any(entry.accepted() for entry in entries):
                    raise
                self._give_up_acceptances(entries)
                continue
            except StoreUnavailableError as error:
                self._observer.not_committed()
                _log.warning("store_unavailable", error=str(error), cause=str(error.__cause__), waiting=len(entries))
                if self._give_up_acceptances(entries):
                    await asyncio.sleep(retry_s)
                    retry_s = min(_LAST_RETRY_S, retry_s * 2)
                continue
            finally:
                self._is_writing = False
            retry_s = _FIRST_RETRY_S
            self._take_effect(entries, numbers)

    async def _write(self, entries: Sequence[_Entry]) -> Iterator[int]:
        """One transaction; the numbers of its events."""
        batch, loop = _merged(entries), asyncio.get_running_loop()
        started_s = loop.time()
        last_sequence = await self._store.write(self._epoch, batch)
        self._observer.committed(decisions=len(entries), seconds=loop.time() - started_s)
        return count(last_sequence - len(batch.events) + 1)

    def _append(self, entry: _Entry) -> None:
        if not entry.writes and not self._pending.entries and not self._is_writing:
            self._take_effect([entry], repeat(0))
            return
        self._pending.entries.append(entry)
        if len(self._pending.entries) > _FOLDED_AT:
            self._pending.entries = [_folded(self._pending.entries)]
        self._pending.wake.set()
        self._crowd.came(len(self._pending.entries))

    async def _append_and_wait(self, entry: _Entry) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.waiters = (done,)
        self._append(entry)
        await done

    def _take_effect(self, entries: Sequence[_Entry], numbers: Iterator[int]) -> None:
        """`numbers`: of the events that were stored, in their order."""
        gone = {task_id for entry in entries for task_id in entry.deleted}
        for entry in entries:
            for command in entry.commands:
                if isinstance(command, Record):
                    if command.event.task_id not in gone:
                        self._recorded(command.event, next(numbers))
                elif not isinstance(command, _SILENT):
                    self._carry_out(command)
            for waiter in entry.waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _give_up_acceptances(self, failed: list[_Entry]) -> bool:
        """Puts back what must still be written, less the acceptances, whose callers are told now. True: something is left to write.

        What is put back is one entry of what still matters, so that what waits for a store that is away for long stays as small as the
        tasks and lanes there are, and what happened to them.
        """
        self._pending.entries = failed + self._pending.entries
        refused = frozenset(task_id for entry in failed for task_id in entry.accepted())
        if refused:
            # What the core decides on hearing it goes behind what is there; that too may speak of tasks that never were.
            self._not_stored(refused)
        left = _folded(self._pending.entries, without=refused)
        self._pending.entries = [left] if left.commands or left.deleted or left.waiters else []
        if self._pending.entries:
            self._pending.wake.set()
        return left.writes


def _folded(entries: Sequence[_Entry], *, without: frozenset[TaskId] = frozenset()) -> _Entry:
    """All entries as one, less what speaks of these tasks and what a later command of the same kind makes needless.

    They would be written as one batch anyway. An acceptance that was not tried yet is kept whole: it may still be refused.
    """
    kept: list[Command] = []
    seen: set[tuple[str, object]] = set()
    for entry in reversed(entries):
        for command in reversed(entry.commands):
            channel = _channel(command)
            if _task_of(command) in without or (channel is not None and channel in seen):
                continue
            if channel is not None:
                seen.add(channel)
            kept.append(command)
    kept.reverse()
    return _Entry(
        commands=kept,
        deleted=[task_id for entry in entries for task_id in entry.deleted],
        waiters=[waiter for entry in entries for waiter in entry.waiters],
    )


def _channel(command: Command) -> tuple[str, object] | None:
    """What a later command of the same kind makes needless; None for what must not be dropped."""
    match command:
        case PersistTask(task=task, accepts=False):
            return ("task", task.task_id)
        case PersistLane(lane=lane):
            return ("lane", lane.spec.lane_id)
        case ForgetLane(lane_id=lane_id):
            return ("lane", lane_id)
        case PersistPolicy(policy=policy):
            return ("policy", policy.model)
        case PersistLearned(learned=learned):
            return ("learned", learned.place)
        case SendWish(session=session):
            return ("wish", session)
        case _:
            return None


def _task_of(command: Command) -> TaskId | None:
    match command:
        case PersistTask(task=task) | ReplyAccepted(task=task):
            return task.task_id
        case Record(event=event):
            return event.task_id
        case SendWish(wish=wish):
            return None if wish.lease is None else wish.lease.task_id
        case _:
            return None


def _merged(entries: Sequence[_Entry]) -> Batch:
    """One transaction of many decisions: of each task, lane and policy the newest state, every event."""
    tasks: dict[TaskId, Task] = {}
    lanes: dict[LaneId, KnownLane | None] = {}
    policies: dict[Model, ModelPolicy] = {}
    learned: dict[Place, Learned] = {}
    events: list[Event] = []
    for entry in entries:
        for command in entry.commands:
            match command:
                case PersistTask(task=task):
                    tasks[task.task_id] = task
                case Record(event=event):
                    events.append(event)
                case PersistLane(lane=lane):
                    lanes[lane.spec.lane_id] = lane
                case ForgetLane(lane_id=lane_id):
                    lanes[lane_id] = None
                case PersistPolicy(policy=policy):
                    policies[policy.model] = policy
                case PersistLearned(learned=one):
                    learned[one.place] = one
                case _:
                    pass
    deleted = [task_id for entry in entries for task_id in entry.deleted]
    if deleted:
        gone = set(deleted)
        tasks = {task_id: task for task_id, task in tasks.items() if task_id not in gone}
        events = [event for event in events if event.task_id not in gone]
    return Batch(
        tasks=list(tasks.values()),
        lanes=[lane for lane in lanes.values() if lane is not None],
        policies=list(policies.values()),
        learned=list(learned.values()),
        events=events,
        deleted=deleted,
        forgotten_lanes=[lane_id for lane_id, lane in lanes.items() if lane is None],
    )
