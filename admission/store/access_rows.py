"""Sessions and audit entries to rows and back; every store keeps these rows, so that all of them return the same values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from admission.store.access_port import AdminSession, AuditEntry, Session
from admission.store.rows import Moment, Row

SESSION_COLUMNS = ("token_sha256", "session_id", "expires_at")
ADMIN_SESSION_COLUMNS = ("token_sha256", "session_id", "created_at", "last_activity_at", "expires_at")
AUDIT_COLUMNS = ("entry_id", "called_at", "address", "action", "details", "success")


def session_row(session: Session, moment: Moment) -> Row:
    """The row of a session."""
    return (session.token_sha256, session.session_id, moment(session.expires_at))


def session_of(row: Sequence[Any]) -> Session:
    """The session of a row of aware times."""
    token_sha256, session_id, expires_at = row
    return Session(session_id=session_id, token_sha256=token_sha256, expires_at=expires_at)


def admin_session_row(session: AdminSession, moment: Moment) -> Row:
    """The row of an admin session."""
    return (
        session.token_sha256,
        session.session_id,
        moment(session.created_at),
        moment(session.last_activity_at),
        moment(session.expires_at),
    )


def admin_session_of(row: Sequence[Any]) -> AdminSession:
    """The admin session of a row of aware times."""
    token_sha256, session_id, created_at, last_activity_at, expires_at = row
    return AdminSession(
        session_id=session_id, token_sha256=token_sha256, created_at=created_at, last_activity_at=last_activity_at, expires_at=expires_at
    )


def audit_row(entry: AuditEntry, moment: Moment) -> Row:
    """The row of a new entry, without its id."""
    return (moment(entry.called_at), entry.address, entry.action, entry.details, entry.success)


def audit_of(row: Sequence[Any]) -> AuditEntry:
    """The entry of a row of aware times."""
    entry_id, called_at, address, action, details, success = row
    return AuditEntry(called_at=called_at, address=address, action=action, details=details, success=bool(success), entry_id=entry_id)


def check_change(token_sha256: str, session: AdminSession | None) -> None:
    """Raises ValueError when a change is of another session than it was asked for."""
    if session is not None and session.token_sha256 != token_sha256:
        msg = f"session {session.session_id} has another token"
        raise ValueError(msg)


def check_audit_limit(limit: int) -> None:
    """Raises ValueError when no entry at all is asked for."""
    if limit < 1:
        msg = f"the limit of entries counts from 1, not {limit}"
        raise ValueError(msg)
