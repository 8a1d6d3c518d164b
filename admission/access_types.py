"""What is asked of access and what it answers, without any wire format."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from admission.rates import RateKind
from admission.store.access_port import Session


class RateLimitedError(Exception):
    """So many events happened within the last minute already.

    Attributes:
        kind: of the events.
        per_minute: how many may happen.
        retry_after_s: when the next one may.
    """

    def __init__(self, kind: RateKind, per_minute: int, retry_after_s: float) -> None:
        """Keeps what the caller is told; of whom is not said."""
        super().__init__(f"{kind}: {per_minute} a minute are used up")
        self.kind = kind
        self.per_minute = per_minute
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most so many events of a kind within any minute."""

    kind: RateKind
    subject: str
    per_minute: int


class SessionState(StrEnum):
    """What the token of a generation session is worth."""

    ACTIVE = "active"
    EXPIRED = "expired"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSession:
    """A token's worth; `session` is None when it is INVALID."""

    state: SessionState
    session: Session | None = None


class AdminKey(StrEnum):
    """What the bridge found of the admin key that a caller sent."""

    ABSENT = "absent"
    RIGHT = "right"
    WRONG = "wrong"
    MISCONFIGURED = "misconfigured"


class Verdict(StrEnum):
    """Whether an admin call is let in."""

    GRANTED = "granted"
    KEY_INVALID = "key_invalid"
    MISCONFIGURED = "misconfigured"
    SESSION_MISSING = "session_missing"
    SESSION_INVALID = "session_invalid"
    SESSION_EXPIRED = "session_expired"
    RATE_LIMITED = "rate_limited"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminCall:
    """A checked admin call.

    Attributes:
        token: empty: none was sent. Never kept or logged, and left out of the call's text.
        idle_timeout: above 0.
        bad_keys_per_minute: 0: no limit.
    """

    action: str
    address: str
    details: str
    key: AdminKey
    token: str = field(repr=False)
    idle_timeout: timedelta
    bad_keys_per_minute: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAnswer:
    """What becomes of an admin call.

    Attributes:
        last_activity_at: this use; only when GRANTED.
        retry_after_s: when a key may be tried again; only when RATE_LIMITED.
        token: of the session that was opened.
    """

    verdict: Verdict
    last_activity_at: datetime | None = None
    retry_after_s: float | None = None
    token: str = field(default="", repr=False)
