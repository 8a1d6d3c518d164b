"""The durable store: SQLAlchemy Core on a SQLite file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from alembic.util import CommandError
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, make_url, or_, select, update
from sqlalchemy.exc import ArgumentError

from admission.core.lanes import LaneSpec
from admission.core.tasks import Event, Task, TaskId
from admission.store import migrations, rows
from admission.store.database import Database, upsert
from admission.store.port import Batch, Session, StaleEpochError, StoreUnavailableError, TaskPage, TaskQuery
from admission.store.schema import CONTROLLER, EVENTS, LANES, SESSIONS, TASKS

BUSY_TIMEOUT_S = 5.0

T = TypeVar("T")


class SqlStore:
    """Keeps everything in one SQLite file; see `Database` for its threads and its durability."""

    def __init__(self, url: str, *, now: Callable[[], datetime] = rows.utc_now, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        """Takes the address; nothing is touched before `open`.

        Args:
            url: `sqlite:///path`, the path relative to the working folder or with a fourth slash absolute.
            now: aware UTC time, for the removal of old sessions only.
            busy_timeout_s: how long a write waits while another process writes.

        Raises:
            ValueError: the URL names no SQLite file.
        """
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            msg = f"{url!r} is not a database URL; write sqlite:///path/to/file.db"
            raise ValueError(msg) from error
        path = parsed.database
        if parsed.drivername != "sqlite" or parsed.host or parsed.query or not path or path.startswith((":", "file:")):
            msg = f"{parsed.render_as_string()!r} does not name a SQLite file; write sqlite:///path/to/file.db"
            raise ValueError(msg)
        self._database = Database(parsed, busy_timeout_s=busy_timeout_s)
        self._now = now
        self._upsert_task = upsert(TASKS)
        self._upsert_lane = upsert(LANES)
        self._upsert_session = upsert(SESSIONS)

    async def open(self) -> None:
        """Connects and brings the schema up to date; a database of a newer program is unavailable to this one."""
        await self._database.open(_migrate)

    async def close(self) -> None:
        """Ends every connection and thread. May be called twice."""
        await self._database.close()

    async def claim_epoch(self) -> int:
        """Takes the next controller epoch, durably."""
        claim = update(CONTROLLER).values(epoch=CONTROLLER.c.epoch + 1).returning(CONTROLLER.c.epoch)
        return await self._database.write(lambda connection: connection.execute(claim).scalar_one())

    async def write(self, epoch: int, batch: Batch) -> None:
        """Stores the batch in one transaction; deletions come last."""
        await self._database.write(lambda connection: self._write(connection, epoch, batch))

    def _write(self, connection: Connection, epoch: int, batch: Batch) -> None:
        _guard(connection, epoch)
        new = rows.batch_rows(batch)
        if new.tasks:
            connection.execute(self._upsert_task, new.tasks)
        if new.lanes:
            connection.execute(self._upsert_lane, new.lanes)
        if new.events:
            connection.execute(insert(EVENTS), new.events)
        if new.deleted:
            ids = [{"deleted_id": task_id} for task_id in new.deleted]
            connection.execute(delete(EVENTS).where(EVENTS.c.task_id == bindparam("deleted_id")), ids)
            connection.execute(delete(TASKS).where(TASKS.c.task_id == bindparam("deleted_id")), ids)

    async def unfinished(self) -> tuple[Task, ...]:
        """Every task that is queued, leased or withdrawn, oldest acceptance first."""
        accepted_at = func.coalesce(TASKS.c.queued_at, TASKS.c.created_at)
        query = select(TASKS).where(or_(TASKS.c.state.in_(rows.UNFINISHED), TASKS.c.is_withdrawn))
        query = query.order_by(accepted_at, TASKS.c.created_at, TASKS.c.task_id)
        return await self._all(query, rows.task_of)

    async def lanes(self) -> tuple[LaneSpec, ...]:
        """Every lane ever stored, by id."""
        return await self._all(select(LANES).order_by(LANES.c.lane_id), rows.lane_of)

    async def task(self, task_id: TaskId) -> Task | None:
        """The task as stored."""
        found = await self._all(select(TASKS).where(TASKS.c.task_id == task_id), rows.task_of)
        return found[0] if found else None

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks; the page and the total are of one state."""
        wanted = [TASKS.c.model == query.model] if query.model is not None else []
        if query.states:
            wanted.append(TASKS.c.state.in_(sorted(state.value for state in query.states)))
        page = (
            select(TASKS)
            .where(*wanted)
            .order_by(TASKS.c[query.sort.value].desc(), TASKS.c.task_id)
            .offset(rows.first_index(query))
            .limit(query.page_size)
        )
        count = select(func.count()).select_from(TASKS).where(*wanted)

        def read(connection: Connection) -> TaskPage:
            tasks = tuple(rows.task_of(row._asdict()) for row in connection.execute(page))
            return TaskPage(tasks=tasks, total=connection.execute(count).scalar_one())

        return await self._database.read(read)

    async def events(self, task_id: TaskId) -> tuple[Event, ...]:
        """The task's events in the order in which they were written."""
        return await self._all(select(EVENTS).where(EVENTS.c.task_id == task_id).order_by(EVENTS.c.sequence), rows.event_of)

    async def add_session(self, session: Session) -> None:
        """Stores a session durably; one with the same token is replaced, sessions that ended over a day ago are removed."""
        ended = delete(SESSIONS).where(SESSIONS.c.expires_at < self._now() - rows.SESSIONS_KEPT)

        def write(connection: Connection) -> None:
            connection.execute(ended)
            connection.execute(self._upsert_session, rows.session_row(session))

        await self._database.write(write)

    async def session(self, token_sha256: str) -> Session | None:
        """The session of this token, ended or not."""
        found = await self._all(select(SESSIONS).where(SESSIONS.c.token_sha256 == token_sha256), rows.session_of)
        return found[0] if found else None

    async def _all(self, query: Select[Any], decode: Callable[[rows.Row], T]) -> tuple[T, ...]:
        def read(connection: Connection) -> tuple[T, ...]:
            return tuple(decode(row._asdict()) for row in connection.execute(query))

        return await self._database.read(read)


def _migrate(connection: Connection) -> None:
    try:
        migrations.apply(connection)
    except CommandError as error:
        msg = f"the database was made by another release: {error}"
        raise StoreUnavailableError(msg) from error


def _guard(connection: Connection, epoch: int) -> None:
    """Refuses every epoch but the newest. The row stays locked to the end of the transaction (on SQLite the whole database is)."""
    newest = connection.execute(select(CONTROLLER.c.epoch).with_for_update(read=True)).scalar_one()
    if epoch != newest:
        raise StaleEpochError(rows.stale(epoch, newest))
