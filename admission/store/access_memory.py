"""Access without durability, for tests of other parts: the same rows and the same answers as the durable one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from admission.store import access_rows as rows
from admission.store.access_port import SESSIONS_KEPT, AdminChange, AdminSession, AuditEntry, Decide, Session
from admission.store.rows import Row, utc

_AT = rows.AUDIT_COLUMNS.index("called_at")
_DETAILS = rows.AUDIT_COLUMNS.index("details")
_SUCCESS = rows.AUDIT_COLUMNS.index("success")


class MemoryAccess:
    """The part of a MemoryStore that implements AccessStore."""

    def __init__(self, enter: Callable[[], Awaitable[None]], *, now: Callable[[], datetime]) -> None:
        """`enter` begins every call: it gives way, or refuses it. `now`: aware UTC time, for the removal of old sessions only."""
        self._enter = enter
        self._now = now
        self._sessions: dict[str, Row] = {}
        self._admin_sessions: dict[str, Row] = {}
        self._audit: dict[int, Row] = {}
        self._last_entry = 0

    async def add_sessions(self, sessions: Sequence[Session]) -> None:
        """Stores generation sessions."""
        new = {session.token_sha256: rows.session_row(session, utc) for session in sessions}
        await self._enter()
        self._sessions = self._kept(self._sessions) | new

    async def session(self, token_sha256: str) -> Session | None:
        """The generation session of this token."""
        await self._enter()
        row = self._sessions.get(token_sha256)
        return None if row is None else rows.session_of(row)

    async def admin_session(self, token_sha256: str) -> AdminSession | None:
        """The admin session of this token."""
        await self._enter()
        return self._admin_session(token_sha256)

    async def change_admin_session(self, token_sha256: str, decide: Decide) -> AdminChange:
        """Does what `decide` says of the token's session."""
        await self._enter()
        before = self._admin_session(token_sha256)
        change = decide(before)
        rows.check_change(token_sha256, change.session)
        # Whatever is wrong with the change raises before anything is stored.
        entries = [] if change.entry is None else [rows.audit_row(change.entry, utc)]
        if change.session is None:
            self._admin_sessions.pop(token_sha256, None)
        else:
            row = rows.admin_session_row(change.session, utc)
            if before is None:
                self._admin_sessions = self._kept(self._admin_sessions)
            self._admin_sessions[token_sha256] = row
        self._add(entries)
        return change

    async def write_audit(self, new: Sequence[AuditEntry], details: Mapping[int, str]) -> tuple[int, ...]:
        """Adds entries and replaces the details of earlier ones."""
        entries = [rows.audit_row(entry, utc) for entry in new]
        await self._enter()
        for entry_id in self._audit.keys() & details.keys():
            row = self._audit[entry_id]
            self._audit[entry_id] = (*row[:_DETAILS], details[entry_id], *row[_DETAILS + 1 :])
        return self._add(entries)

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The newest entries."""
        rows.check_audit_limit(limit)
        await self._enter()
        newest = sorted(self._audit, reverse=True)[:limit]
        return tuple(rows.audit_of(self._audit[entry_id]) for entry_id in newest)

    async def prune_audit(self, before: datetime | None, *, keep: int, limit: int) -> int:
        """Removes entries that are too old or too many."""
        await self._enter()
        old = sorted(entry_id for entry_id, row in self._audit.items() if before is not None and row[_AT] < before)[:limit]
        many: list[int] = []
        for success in (True, False):
            of_kind = sorted((entry_id for entry_id, row in self._audit.items() if row[_SUCCESS] is success), reverse=True)
            many += sorted(of_kind[keep:])[:limit]
        removed = {*old, *many}
        for entry_id in removed:
            del self._audit[entry_id]
        return len(removed)

    def _admin_session(self, token_sha256: str) -> AdminSession | None:
        row = self._admin_sessions.get(token_sha256)
        return None if row is None else rows.admin_session_of(row)

    def _kept(self, sessions: dict[str, Row]) -> dict[str, Row]:
        """Without those that ended long ago; when one ends is its last column."""
        oldest = self._now() - SESSIONS_KEPT
        return {token: row for token, row in sessions.items() if row[-1] >= oldest}

    def _add(self, entries: Sequence[Row]) -> tuple[int, ...]:
        first = self._last_entry + 1
        self._last_entry += len(entries)
        ids = range(first, first + len(entries))
        self._audit.update((entry_id, (entry_id, *row)) for entry_id, row in zip(ids, entries, strict=True))
        return tuple(ids)
