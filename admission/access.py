"""Access: generation sessions, admin sessions with their audit log, and rates; what every bridge of this admission shares."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from admission import access_observer
from admission.access_types import AdminAnswer, AdminKey, CheckedSession, RateLimitedError, SessionState, Verdict
from admission.audit import AuditLog
from admission.rates import RateKind, Rates
from admission.session_writer import SessionWriter
from admission.store.access_port import AdminChange, AdminSession, AuditEntry, Session

if TYPE_CHECKING:
    from datetime import datetime

    from admission.access_observer import AccessObserver
    from admission.access_types import AdminCall, Rate
    from admission.store.access_port import AccessStore
    from runtime.clock import Clock, Reading

SESSION_LIFE = timedelta(hours=24)

_TOKEN_BYTES = 32
# Ours have 43 characters: what is longer is not even hashed.
_MAX_TOKEN_LENGTH = 256

_REASONS = {
    Verdict.KEY_INVALID: "wrong key",
    Verdict.MISCONFIGURED: "no usable admin key is configured",
    Verdict.SESSION_MISSING: "neither key nor session",
    Verdict.SESSION_INVALID: "unknown or ended session",
    Verdict.SESSION_EXPIRED: "session was idle for too long",
    Verdict.RATE_LIMITED: "too many wrong keys from this address",
}


class Access:
    """Belongs to one event loop; `close` ends it, before the store. Tokens are kept as their SHA-256 only.

    Rates go by the clock's monotonic time; sessions, which outlive this process, by UTC. Every method but `count` may raise
    StoreUnavailableError: then nothing was let in, or nobody will learn the token of what was stored.
    """

    def __init__(self, *, store: AccessStore, clock: Clock, observer: AccessObserver = access_observer.SILENT) -> None:
        """Works on this open store."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._rates = Rates()
        self._sessions = SessionWriter(store)
        self._log = AuditLog(store, clock, observer)

    async def close(self) -> None:
        """Writes what the audit log has in memory, and ends every task. May be called twice."""
        await self._sessions.close()
        await self._log.close()

    async def create_session(self, rate: Rate | None) -> tuple[Session, str]:
        """A new generation session and its token. One that could not be stored counts nevertheless. Raises RateLimitedError."""
        now = self._clock.now()
        if rate is not None:
            self._take(rate.kind, rate.subject, rate.per_minute, now)
        token = _new_token()
        session = Session(session_id=_new_id(), token_sha256=_sha256(token), expires_at=now.utc + SESSION_LIFE)
        await self._sessions.add(session)
        return session, token

    async def check_session(self, token: str, generations_per_minute: int) -> CheckedSession:
        """What the token is worth; at exactly its end a session is over. Raises RateLimitedError for an ACTIVE one.

        Args:
            token: as it was sent.
            generations_per_minute: the call is a generation, of which there may be so many; 0: it is none, or they are unlimited.
        """
        now = self._clock.now()
        session = await self._store.session(_sha256(token)) if 0 < len(token) <= _MAX_TOKEN_LENGTH else None
        if session is None:
            return CheckedSession(state=SessionState.INVALID)
        if now.utc >= session.expires_at:
            return CheckedSession(state=SessionState.EXPIRED, session=session)
        if generations_per_minute:
            # Read anew: while the store was asked other calls may have counted, and times must come in their order.
            self._take(RateKind.GENERATION, session.session_id, generations_per_minute, self._clock.now())
        return CheckedSession(state=SessionState.ACTIVE, session=session)

    def count(self, rate: Rate) -> None:
        """Counts one event. Raises RateLimitedError when the rate was used up before."""
        self._take(rate.kind, rate.subject, rate.per_minute, self._clock.now())

    async def open_admin_session(self, call: AdminCall) -> AdminAnswer:
        """Opens a session for the right key; its token counts for nothing."""
        now = self._clock.now()
        answer = self._by_key(call, now) or AdminAnswer(verdict=Verdict.SESSION_MISSING)
        if answer.verdict is not Verdict.GRANTED:
            return await self._refuse(call, answer, now)
        token = _new_token()
        session = AdminSession(
            session_id=_new_id(),
            token_sha256=_sha256(token),
            created_at=now.utc,
            last_activity_at=now.utc,
            expires_at=now.utc + call.idle_timeout,
        )
        change = AdminChange(session=session, entry=_granted(call, now.utc))
        await self._store.change_admin_session(session.token_sha256, lambda _: change)
        self._observer.admin_called(Verdict.GRANTED)
        return replace(answer, token=token)

    async def authorize_admin(self, call: AdminCall) -> AdminAnswer:
        """Lets the call in by its key, or else by its session, whose idle time begins anew."""
        now = self._clock.now()
        by_key = self._by_key(call, now)
        if by_key is None:
            return await self._by_session(call, now, closes=False)
        if by_key.verdict is not Verdict.GRANTED:
            return await self._refuse(call, by_key, now)
        await self._store.write_audit([_granted(call, now.utc)], {})
        self._observer.admin_called(Verdict.GRANTED)
        return by_key

    async def close_admin_session(self, call: AdminCall) -> AdminAnswer:
        """Ends the session of the token: by the right key, whatever the token is, or else by the session itself."""
        now = self._clock.now()
        by_key = self._by_key(call, now)
        if by_key is None:
            return await self._by_session(call, now, closes=True)
        if by_key.verdict is not Verdict.GRANTED:
            return await self._refuse(call, by_key, now)
        change = AdminChange(session=None, entry=_granted(call, now.utc))
        # A token that no session can have is as good as an unknown one.
        await self._store.change_admin_session(_sha256(call.token[:_MAX_TOKEN_LENGTH]), lambda _: change)
        self._observer.admin_called(Verdict.GRANTED)
        return by_key

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first, with their numbers as they are now."""
        return self._log.current(await self._store.audit(limit))

    def _take(self, kind: RateKind, subject: str, per_minute: int, now: Reading) -> None:
        wait_s = self._rates.take(kind, subject, per_minute, now.monotonic_s)
        if wait_s is not None:
            self._observer.rate_limited(kind)
            raise RateLimitedError(kind, per_minute, wait_s)

    def _by_key(self, call: AdminCall, now: Reading) -> AdminAnswer | None:
        """What the key decides; None: none was sent. Beyond the limit of wrong ones a right one is not looked at either."""
        rate = (RateKind.BAD_ADMIN_KEY, call.address, call.bad_keys_per_minute, now.monotonic_s)
        is_limited, wait_s = call.bad_keys_per_minute > 0, None
        match call.key:
            case AdminKey.ABSENT:
                return None
            case AdminKey.MISCONFIGURED:
                # There is nothing to guess.
                return AdminAnswer(verdict=Verdict.MISCONFIGURED)
            case AdminKey.WRONG:
                verdict, last_activity_at = Verdict.KEY_INVALID, None
                wait_s = self._rates.take(*rate) if is_limited else None
            case AdminKey.RIGHT:
                verdict, last_activity_at = Verdict.GRANTED, now.utc
                wait_s = self._rates.wait_s(*rate) if is_limited else None
        if wait_s is None:
            return AdminAnswer(verdict=verdict, last_activity_at=last_activity_at)
        self._observer.rate_limited(RateKind.BAD_ADMIN_KEY)
        return AdminAnswer(verdict=Verdict.RATE_LIMITED, retry_after_s=wait_s)

    async def _by_session(self, call: AdminCall, now: Reading, *, closes: bool) -> AdminAnswer:
        """What the token decides; a session that is good is renewed, or with `closes` removed."""
        if not call.token:
            return await self._refuse(call, AdminAnswer(verdict=Verdict.SESSION_MISSING), now)
        token_sha256 = _sha256(call.token) if len(call.token) <= _MAX_TOKEN_LENGTH else ""
        # Looked at first without the writer, whom made-up tokens must not keep busy.
        found = await self._store.admin_session(token_sha256) if token_sha256 else None
        if found is None or now.utc >= found.expires_at:
            return await self._refuse(call, AdminAnswer(verdict=_judge(found, call, now.utc)), now)

        def decide(session: AdminSession | None) -> AdminChange:
            if session is None or _judge(session, call, now.utc) is not Verdict.GRANTED:
                return AdminChange(session=_shortened(session, call))
            return AdminChange(session=None if closes else _renewed(session, call, now.utc), entry=_granted(call, now.utc))

        change = await self._store.change_admin_session(token_sha256, decide)
        if change.entry is None:
            return await self._refuse(call, AdminAnswer(verdict=_judge(change.session, call, now.utc)), now)
        self._observer.admin_called(Verdict.GRANTED)
        used_at = now.utc if change.session is None else change.session.last_activity_at
        return AdminAnswer(verdict=Verdict.GRANTED, last_activity_at=used_at)

    async def _refuse(self, call: AdminCall, answer: AdminAnswer, now: Reading) -> AdminAnswer:
        self._observer.admin_called(answer.verdict)
        await self._log.refused(call, answer.verdict, _REASONS[answer.verdict], now)
        return answer


def _judge(session: AdminSession | None, call: AdminCall, now: datetime) -> Verdict:
    """Whether the session is good. It ends by the timeout of its last use or by this call's, whichever is earlier; at exactly then.

    So a shorter timeout holds at once for sessions that are open, and a longer one brings none back that was over.
    """
    if session is None:
        return Verdict.SESSION_INVALID
    is_over = now >= session.expires_at or now >= session.last_activity_at + call.idle_timeout
    return Verdict.SESSION_EXPIRED if is_over else Verdict.GRANTED


def _renewed(session: AdminSession, call: AdminCall, now: datetime) -> AdminSession:
    # Two calls at once may come here in either order.
    used_at = max(session.last_activity_at, now)
    return replace(session, last_activity_at=used_at, expires_at=used_at + call.idle_timeout)


def _shortened(session: AdminSession | None, call: AdminCall) -> AdminSession | None:
    """Over for everybody once somebody was told that it is."""
    if session is None:
        return None
    return replace(session, expires_at=min(session.expires_at, session.last_activity_at + call.idle_timeout))


def _granted(call: AdminCall, now: datetime) -> AuditEntry:
    return AuditEntry(called_at=now, address=call.address, action=call.action, details=call.details, success=True)


def _new_token() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


def _new_id() -> str:
    return secrets.token_hex(16)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
