"""The durable store: SQLAlchemy Core on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from alembic.util import CommandError
from sqlalchemy import CompoundSelect, Connection, Select, func, make_url, select, text, union_all, update
from sqlalchemy.exc import ArgumentError

from admission.core.lanes import KnownLane, ModelPolicy
from admission.core.learned import Learned
from admission.core.tasks import Task, TaskId
from admission.store import migrations, postgresql, rows, sqlite
from admission.store.access import SqlAccess
from admission.store.batches import BatchWriter
from admission.store.commits import Commits
from admission.store.database import Backend, Database
from admission.store.lookups import RequestLookups
from admission.store.pages import read_page
from admission.store.port import (
    Batch,
    EventPage,
    EventQuery,
    Pruned,
    Retention,
    StoreUnavailableError,
    TaskPage,
    TaskQuery,
)
from admission.store.postgresql import PostgresqlBackend
from admission.store.pruning import prune
from admission.store.schema import (
    COMMON_EVENTS,
    CONTROLLER,
    EVENTS,
    IS_RARE,
    LANES,
    LEARNED,
    MUST_BE_RESTORED,
    POLICIES,
    TASK_INPUTS,
    TASKS,
)
from admission.store.sqlite import SqliteBackend
from admission.store.writer_process import WriterProcess

BUSY_TIMEOUT_S = 5.0

T = TypeVar("T")


class SqlStore:
    """Keeps everything in one database; see `Database` for its threads, the backends for its durability.

    Attributes:
        access: sessions and the audit log, open as long as the store is.
    """

    def __init__(
        self, url: str, *, now: Callable[[], datetime] = rows.utc_now, busy_timeout_s: float = BUSY_TIMEOUT_S, has_writer: bool = False
    ) -> None:
        """Takes the address; nothing is touched before `open`.

        Args:
            url: `sqlite:///path`, the path relative to the working folder or with a fourth slash absolute; or `postgresql://…`.
            now: aware UTC time, for the removal of old sessions only.
            busy_timeout_s: how long a write waits while another process writes.
            has_writer: batches may be written by a process of its own, once many come together; of SQLite only, as a server is one already.

        Raises:
            ValueError: the URL names no database; the message has no password.
        """
        backend = _backend(url, busy_timeout_s)
        self._database = Database(backend)
        self._batches = BatchWriter(backend)
        self._lookups = RequestLookups(backend, self._database.read)
        process = (lambda: WriterProcess(url, busy_timeout_s=busy_timeout_s)) if has_writer and isinstance(backend, SqliteBackend) else None
        self._commits = Commits(self._database, backend, self._batches, process)
        self.access = SqlAccess(self._database.read, self._commits.beside, backend, now=now)

    async def open(self) -> None:
        """Connects and brings the schema up to date; a database of a newer program is unavailable to this one."""
        await self._database.open(_migrate)

    async def close(self) -> None:
        """Ends every look, connection and thread. May be called twice."""
        try:
            await self._lookups.close()
            await self._commits.close()
        finally:
            await self._database.close()

    async def claim_epoch(self) -> int:
        """Takes the next controller epoch, durably."""
        claim = update(CONTROLLER).values(epoch=CONTROLLER.c.epoch + 1).returning(CONTROLLER.c.epoch)
        return await self._database.write(lambda connection: connection.execute(claim).scalar_one())

    async def epoch(self) -> int:
        """The newest epoch that was claimed."""
        return await self._database.read(lambda connection: connection.execute(select(CONTROLLER.c.epoch)).scalar_one())

    async def write(self, epoch: int, batch: Batch) -> int:
        """Stores the batch in one transaction."""
        return await self._commits.write(epoch, batch)

    async def prune(self, epoch: int, retention: Retention) -> Pruned:
        """Removes what is too old, at most `retention.limit` tasks and as many events, in one transaction."""
        return await self._commits.beside(lambda connection: prune(connection, self._batches, epoch, retention))

    async def unfinished(self) -> tuple[Task, ...]:
        """Every task that is queued, leased or withdrawn, oldest acceptance first."""
        found = await self._all(select(TASKS).where(text(MUST_BE_RESTORED)), rows.task_of)
        return tuple(sorted(found, key=rows.acceptance))

    async def lanes(self) -> tuple[KnownLane, ...]:
        """Every lane that is not forgotten, by id."""
        return await self._all(select(LANES).order_by(LANES.c.lane_id), rows.lane_of)

    async def policies(self) -> tuple[ModelPolicy, ...]:
        """Every policy, by model."""
        return await self._all(select(POLICIES).order_by(POLICIES.c.model), rows.policy_of)

    async def learned(self) -> tuple[Learned, ...]:
        """All that was learned, by place."""
        return await self._all(select(LEARNED).order_by(LEARNED.c.gpu, LEARNED.c.model, LEARNED.c.placement), rows.learned_of)

    async def task(self, task_id: TaskId) -> Task | None:
        """The task as stored."""
        return await self._one(select(TASKS).where(TASKS.c.task_id == task_id), rows.task_of)

    async def task_of_request(self, owner: str, request_id: str) -> Task | None:
        """The owner's task with this idempotency key."""
        return await self._lookups.find((owner, request_id))

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks; the page and the total are of one state."""
        return await self._database.read(lambda connection: read_page(connection, query))

    async def events(self, query: EventQuery) -> EventPage:
        """Stored events with their sequences."""
        rows.check_events_query(query)
        found = _events(query)

        def read(connection: Connection) -> EventPage:
            events = tuple(rows.event_of(row) for row in connection.execute(found).all())
            if len(events) == query.limit:
                return EventPage(events=events, last_sequence=events[-1].sequence)
            return EventPage(events=events, last_sequence=max(query.after, _last_sequence(connection)))

        return await self._database.read(read)

    async def last_sequence(self) -> int:
        """Sequence of the newest event ever; 0 when there was none."""
        return await self._database.read(_last_sequence)

    async def unused_inputs(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of these object keys that no stored task has as an input image."""
        used = await self._all(select(TASK_INPUTS.c.key).where(TASK_INPUTS.c.key.in_(keys)).distinct(), lambda row: str(row[0]))
        return frozenset(keys).difference(used)

    async def _all(self, query: Select[Any] | CompoundSelect[Any], decode: Callable[[Sequence[Any]], T]) -> tuple[T, ...]:
        return await self._database.read(lambda connection: tuple([decode(row) for row in connection.execute(query).all()]))

    async def _one(self, query: Select[Any] | CompoundSelect[Any], decode: Callable[[Sequence[Any]], T]) -> T | None:
        found = await self._all(query, decode)
        return found[0] if found else None


def _backend(url: str, busy_timeout_s: float) -> Backend:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Neither the text nor the cause is shown: there may be a password in it.
        msg = f"this is not a database URL; write {sqlite.FORM} or {postgresql.FORM}"
        raise ValueError(msg) from None
    if parsed.get_backend_name() == "postgresql":
        return PostgresqlBackend(parsed, lock_timeout_s=busy_timeout_s)
    return SqliteBackend(parsed, busy_timeout_s=busy_timeout_s)


def _events(query: EventQuery) -> Select[Any] | CompoundSelect[Any]:
    """The page's events. Rare types come each out of the index in order, and the engine merges them as it goes."""
    every = select(EVENTS).where(EVENTS.c.sequence > query.after)
    if query.task_id is not None:
        every = every.where(EVENTS.c.task_id == query.task_id)
    if query.lane_id is not None:
        every = every.where(EVENTS.c.lane_id == query.lane_id)
    types = sorted(query.event_types)
    if not types:
        return every.order_by(EVENTS.c.sequence).limit(query.limit)
    if query.task_id is not None or query.lane_id is not None or not query.event_types.isdisjoint(COMMON_EVENTS):
        return every.where(EVENTS.c.event_type.in_(types)).order_by(EVENTS.c.sequence).limit(query.limit)
    parts = [every.where(text(IS_RARE), EVENTS.c.event_type == event_type) for event_type in types]
    return union_all(parts[0], *parts[1:]).order_by("sequence").limit(query.limit)


def _last_sequence(connection: Connection) -> int:
    kept, newest = connection.execute(select(CONTROLLER.c.last_sequence, select(func.max(EVENTS.c.sequence)).scalar_subquery())).one()
    return max(int(kept), int(newest or 0))


def _migrate(connection: Connection) -> None:
    try:
        migrations.apply(connection)
    except CommandError as error:
        msg = f"the database was made by another release: {error}"
        raise StoreUnavailableError(msg) from error
