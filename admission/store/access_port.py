"""What admission needs of a store for access: sessions and the audit log. One contract suite runs on every implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

SESSIONS_KEPT = timedelta(days=1)
"""How long an ended session is still known, so that its owner is told that it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A generation session. Only the token's SHA-256 (hex) is kept."""

    session_id: str
    token_sha256: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSession:
    """An admin session that was not closed. Only the token's SHA-256 (hex) is kept.

    Attributes:
        session_id: public; it may stand in logs.
        last_activity_at: the last call that was let in with it; at first its opening.
        expires_at: then it is over, unless it is used before.
    """

    session_id: str
    token_sha256: str
    created_at: datetime
    last_activity_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One admin call, or several refused ones. The store gives the id; before that it is 0."""

    called_at: datetime
    address: str
    action: str
    details: str
    success: bool
    entry_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminChange:
    """What becomes of an admin session, and what the audit log says of it; stored together or not at all.

    Attributes:
        session: as it shall be; None: it is removed, or there is still none.
        entry: for the audit log, if there is something to say.
    """

    session: AdminSession | None
    entry: AuditEntry | None = None


Decide = Callable[[AdminSession | None], AdminChange]
"""Says what becomes of a session, from how it is stored. Pure: it runs in a thread of the store, and again when a connection was lost."""


class AccessStore(Protocol):
    """Every call may raise StoreUnavailableError; none blocks the event loop. What is written is on disk when the call returns."""

    async def add_sessions(self, sessions: Sequence[Session]) -> None:
        """Stores generation sessions; one with the same token is replaced, those that ended over SESSIONS_KEPT ago are removed."""
        ...

    async def session(self, token_sha256: str) -> Session | None:
        """The generation session of this token, ended or not."""
        ...

    async def admin_session(self, token_sha256: str) -> AdminSession | None:
        """The admin session of this token, over or not, unless it was removed."""
        ...

    async def change_admin_session(self, token_sha256: str, decide: Decide) -> AdminChange:
        """Does what `decide` says of the token's session, as it is now, in one transaction; no other change comes between. Returns it.

        When a session is new, those that were over more than SESSIONS_KEPT ago are removed on the way.
        """
        ...

    async def write_audit(self, new: Sequence[AuditEntry], details: Mapping[int, str]) -> tuple[int, ...]:
        """Adds entries and replaces the details of earlier ones, by id, in one transaction; returns the ids of the new ones, rising.

        An id is never given twice. An entry that is gone stays gone.
        """
        ...

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The newest entries, newest (by id) first."""
        ...

    async def prune_audit(self, before: datetime | None, *, keep: int, limit: int) -> int:
        """Removes entries that are too old or too many; returns how many. 0: nothing is left to remove.

        Args:
            before: entries of calls before then are too old; None: none is.
            keep: so many of those with success, and so many of those without, are kept, the newest: so calls that are refused push out
                none that was let in.
            limit: at most so many of those that are too old, and of each kind of which there are too many, are removed in one call.
        """
        ...
