"""The one writer: decisions reach the disk in their order, many in one commit, and only then take effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from admission.core.commands import Command, DiscardTask, PersistLane, PersistTask, Publish, Record, ReplyAccepted, SendWish
from admission.core.tasks import TaskId
from admission.store.port import Batch, Store, StoreUnavailableError

_log = structlog.get_logger()

# How long the writer waits before it tries a failed batch again: quick at first, so that a short lock costs little.
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0


@dataclass(slots=True, kw_only=True)
class _Entry:
    """The commands of one decision, or a deletion; `done` is answered when it is on disk."""

    commands: Sequence[Command] = ()
    deleted: Sequence[TaskId] = ()
    done: asyncio.Future[None] | None = None

    @property
    def writes(self) -> bool:
        return bool(self.deleted) or any(isinstance(command, PersistTask | PersistLane | Record) for command in self.commands)

    @property
    def is_foldable(self) -> bool:
        """Nobody waits for it and it writes nothing."""
        return self.done is None and not self.writes

    def fold(self, later: _Entry) -> None:
        """Takes a later entry in: of each task only the newest state is shown, on each stream only the newest wish is sent.

        So what waits for a store that is away for long stays as small as the tasks and lanes there are.
        """
        replaced = {_channel(command) for command in later.commands} - {None}
        self.commands = [command for command in self.commands if _channel(command) not in replaced] + list(later.commands)

    def accepted(self) -> list[TaskId]:
        """Tasks whose acceptance this entry would make durable."""
        return [command.task.task_id for command in self.commands if isinstance(command, PersistTask) and command.accepts]

    def without(self, tasks: frozenset[TaskId]) -> _Entry:
        """The entry less everything about these tasks."""
        kept = [command for command in self.commands if _task_of(command) not in tasks]
        return _Entry(commands=kept, deleted=self.deleted, done=self.done)


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
        self, store: Store, epoch: int, carry_out: Callable[[Command], None], not_stored: Callable[[frozenset[TaskId]], None]
    ) -> None:
        """`carry_out` is called for each command that is not a write; `not_stored` for the acceptances that the store refused."""
        self._store = store
        self._epoch = epoch
        self._carry_out = carry_out
        self._not_stored = not_stored
        self._pending = _Pending()
        self._is_writing = False

    def append(self, commands: Sequence[Command]) -> None:
        """Takes the commands of one decision. Those of a decision that writes nothing take effect at once if nothing is before them."""
        self._append(_Entry(commands=commands))

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
        while True:
            await self._pending.wake.wait()
            self._pending.wake.clear()
            entries, self._pending.entries = self._pending.entries, []
            self._is_writing = True
            try:
                if any(entry.writes for entry in entries):
                    await self._store.write(self._epoch, _merged(entries))
            except StoreUnavailableError as error:
                _log.warning("store_unavailable", error=str(error), cause=str(error.__cause__), waiting=len(entries))
                if self._give_up_acceptances(entries):
                    await asyncio.sleep(retry_s)
                    retry_s = min(_LAST_RETRY_S, retry_s * 2)
                continue
            finally:
                self._is_writing = False
            retry_s = _FIRST_RETRY_S
            self._take_effect(entries)

    def _append(self, entry: _Entry) -> None:
        if not entry.writes and not self._pending.entries and not self._is_writing:
            self._take_effect([entry])
            return
        last = self._pending.entries[-1] if self._pending.entries else None
        if last is not None and last.is_foldable and entry.is_foldable:
            last.fold(entry)
        else:
            self._pending.entries.append(entry)
        self._pending.wake.set()

    async def _append_and_wait(self, entry: _Entry) -> None:
        entry.done = asyncio.get_running_loop().create_future()
        self._append(entry)
        await entry.done

    def _take_effect(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            for command in entry.commands:
                if not isinstance(command, PersistTask | PersistLane | Record):
                    self._carry_out(command)
            if entry.done is not None and not entry.done.done():
                entry.done.set_result(None)

    def _give_up_acceptances(self, failed: list[_Entry]) -> bool:
        """Puts back what must still be written, less the acceptances, whose callers are told now. True: something is left to write."""
        self._pending.entries = failed + self._pending.entries
        refused = frozenset(task_id for entry in failed for task_id in entry.accepted())
        if refused:
            # What the core decides on hearing it goes behind what is there; that too may speak of tasks that never were.
            self._not_stored(refused)
            entries = [entry.without(refused) for entry in self._pending.entries]
            self._pending.entries = [entry for entry in entries if entry.commands or entry.deleted or entry.done]
        if self._pending.entries:
            self._pending.wake.set()
        return any(entry.writes for entry in self._pending.entries)


def _channel(command: Command) -> tuple[str, object] | None:
    """What a later command of the same kind makes needless; None for what must not be dropped."""
    match command:
        case Publish(task=task):
            return ("publish", task.task_id)
        case SendWish(session=session):
            return ("wish", session)
        case _:
            return None


def _task_of(command: Command) -> TaskId | None:
    match command:
        case PersistTask(task=task) | ReplyAccepted(task=task) | Publish(task=task):
            return task.task_id
        case Record(event=event):
            return event.task_id
        case SendWish(wish=wish):
            return None if wish.lease is None else wish.lease.task_id
        case _:
            return None


def _merged(entries: Sequence[_Entry]) -> Batch:
    """One transaction of many decisions: of each task the newest state, of each lane the newest specification, every event."""
    commands = [command for entry in entries for command in entry.commands]
    deleted = [task_id for entry in entries for task_id in entry.deleted]
    tasks = {command.task.task_id: command.task for command in commands if isinstance(command, PersistTask)}
    lanes = {command.spec.lane_id: command.spec for command in commands if isinstance(command, PersistLane)}
    gone = set(deleted)
    return Batch(
        tasks=[task for task in tasks.values() if task.task_id not in gone],
        lanes=list(lanes.values()),
        events=[command.event for command in commands if isinstance(command, Record) and command.event.task_id not in gone],
        deleted=deleted,
    )
