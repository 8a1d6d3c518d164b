"""Sessions and the audit log in the durable store, beside the tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, Select, Table, bindparam, delete, insert, select, update

from admission.store import access_rows as rows
from admission.store.access_port import SESSIONS_KEPT, AdminChange, AdminSession, AuditEntry, Decide, Session
from admission.store.batches import Insert, replacing
from admission.store.database import Backend, Run, driver_cursor
from admission.store.rows import Row, utc
from admission.store.schema import ADMIN_SESSIONS, AUDIT, SESSIONS


class SqlAccess:
    """The part of a SqlStore that implements AccessStore. Acceptances share its writer's thread, so every transaction is short."""

    def __init__(self, read: Run, write: Run, backend: Backend, *, now: Callable[[], datetime]) -> None:
        """Reads and writes by these, in transactions of the store's database. `now`: aware UTC time, for the removal of old sessions
        only."""
        self._read, self._write = read, write
        self._moment = backend.moment
        self._now = now
        self._sessions = Insert(backend, SESSIONS, rows.SESSION_COLUMNS, then=replacing("token_sha256", rows.SESSION_COLUMNS[1:]))

    async def add_sessions(self, sessions: Sequence[Session]) -> None:
        """Stores generation sessions."""
        # By token: one statement may not touch a row twice.
        new = {session.token_sha256: rows.session_row(session, self._moment) for session in sessions}

        def write(connection: Connection) -> None:
            self._remove_ended(connection, SESSIONS)
            self._sessions.run(driver_cursor(connection), list(new.values()))

        await self._write(write)

    async def session(self, token_sha256: str) -> Session | None:
        """The generation session of this token."""
        query = select(SESSIONS).where(SESSIONS.c.token_sha256 == token_sha256)
        row = await self._read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else rows.session_of(row)

    async def admin_session(self, token_sha256: str) -> AdminSession | None:
        """The admin session of this token."""
        return await self._read(lambda connection: _admin_session(connection, _of_token(token_sha256)))

    async def change_admin_session(self, token_sha256: str, decide: Decide) -> AdminChange:
        """Does what `decide` says of the token's session."""

        def write(connection: Connection) -> AdminChange:
            # Another admission may be about to take over a server's database: the row is ours until the commit.
            before = _admin_session(connection, _of_token(token_sha256).with_for_update())
            change = decide(before)
            rows.check_change(token_sha256, change.session)
            if change.session != before:
                self._replace(connection, token_sha256, before, change.session)
            if change.entry is not None:
                _add_entries(connection, [change.entry])
            return change

        return await self._write(write)

    async def write_audit(self, new: Sequence[AuditEntry], details: Mapping[int, str]) -> tuple[int, ...]:
        """Adds entries and replaces the details of earlier ones."""
        changed = [{"changed_id": entry_id, "new_details": text} for entry_id, text in details.items()]
        change = update(AUDIT).where(AUDIT.c.entry_id == bindparam("changed_id")).values(details=bindparam("new_details"))

        def write(connection: Connection) -> tuple[int, ...]:
            if changed:
                connection.execute(change, changed)
            return _add_entries(connection, new)

        return await self._write(write)

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The newest entries."""
        rows.check_audit_limit(limit)
        query = select(AUDIT).order_by(AUDIT.c.entry_id.desc()).limit(limit)
        return await self._read(lambda connection: tuple([rows.audit_of(row) for row in connection.execute(query)]))

    async def prune_audit(self, before: datetime | None, *, keep: int, limit: int) -> int:
        """Removes entries that are too old or too many."""
        too_many = [_beyond(success, keep).limit(limit) for success in (True, False)]
        too_old = [] if before is None else [_ids().where(AUDIT.c.called_at < utc(before)).order_by(AUDIT.c.called_at).limit(limit)]

        def write(connection: Connection) -> int:
            return sum(connection.execute(delete(AUDIT).where(AUDIT.c.entry_id.in_(ids))).rowcount for ids in (*too_old, *too_many))

        return await self._write(write)

    def _replace(self, connection: Connection, token_sha256: str, before: AdminSession | None, after: AdminSession | None) -> None:
        of_token = ADMIN_SESSIONS.c.token_sha256 == token_sha256
        if after is None:
            connection.execute(delete(ADMIN_SESSIONS).where(of_token))
            return
        row = dict(zip(rows.ADMIN_SESSION_COLUMNS, rows.admin_session_row(after, utc), strict=True))
        if before is None:
            self._remove_ended(connection, ADMIN_SESSIONS)
            connection.execute(insert(ADMIN_SESSIONS), row)
        else:
            connection.execute(update(ADMIN_SESSIONS).where(of_token).values(row))

    def _remove_ended(self, connection: Connection, table: Table) -> None:
        connection.execute(delete(table).where(table.c.expires_at < self._now() - SESSIONS_KEPT))


def _of_token(token_sha256: str) -> Select[Row]:
    return select(ADMIN_SESSIONS).where(ADMIN_SESSIONS.c.token_sha256 == token_sha256)


def _admin_session(connection: Connection, query: Select[Row]) -> AdminSession | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else rows.admin_session_of(row)


def _add_entries(connection: Connection, entries: Sequence[AuditEntry]) -> tuple[int, ...]:
    if not entries:
        return ()
    new = [dict(zip(rows.AUDIT_COLUMNS[1:], rows.audit_row(entry, utc), strict=True)) for entry in entries]
    added = connection.execute(insert(AUDIT).returning(AUDIT.c.entry_id, sort_by_parameter_order=True), new)
    return tuple(int(entry_id) for entry_id in added.scalars())


def _ids() -> Select[tuple[int]]:
    return select(AUDIT.c.entry_id)


def _beyond(success: bool, keep: int) -> Select[tuple[int]]:
    """Those of a kind that are older than so many newer ones, oldest first."""
    of_kind = _ids().where(AUDIT.c.success.is_(success))
    # NULL, which no id is at most, when there are not so many.
    newest_beyond = of_kind.order_by(AUDIT.c.entry_id.desc()).limit(1).offset(keep).scalar_subquery()
    return of_kind.where(AUDIT.c.entry_id <= newest_beyond).order_by(AUDIT.c.entry_id)
