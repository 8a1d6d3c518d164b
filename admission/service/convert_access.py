"""Between messages of AccessService and the types of access; the one place that checks their fields."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from warmlane.admission.v1 import access_service_pb2 as pb

from admission.access_types import AdminCall, AdminKey, Rate, SessionState, Verdict
from admission.rates import RateKind
from admission.service.convert import duration, seconds, timestamp
from admission.service.errors import whole_seconds
from admission.service.texts import told
from runtime.rules.request import InvalidRequestError, Violation

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from admission.access_types import AdminAnswer, CheckedSession
    from admission.store.access_port import AuditEntry, Session

DEFAULT_AUDIT_LIMIT = 100
MAX_AUDIT_LIMIT = 1_000
MAX_PER_MINUTE = 1_000_000

_MAX_SUBJECT = 128
_MAX_ADDRESS = 64
_MAX_DETAILS = 512
_MAX_IDLE = timedelta(days=3650)
_ACTION = re.compile(r"[a-z_]{1,64}")

_KINDS_BACK = {
    pb.RATE_KIND_NEW_SESSION: RateKind.NEW_SESSION,
    pb.RATE_KIND_GENERATION: RateKind.GENERATION,
    pb.RATE_KIND_BAD_KEY: RateKind.BAD_KEY,
}
_KEYS_BACK = {
    pb.ADMIN_KEY_UNSPECIFIED: AdminKey.ABSENT,
    **{pb.AdminKey.Value(f"ADMIN_KEY_{key.name}"): key for key in AdminKey},
}
_STATES = {state: pb.SessionState.Value(f"SESSION_STATE_{state.name}") for state in SessionState}
_VERDICTS = {verdict: pb.AdminVerdict.Value(f"ADMIN_VERDICT_{verdict.name}") for verdict in Verdict}

_PER_MINUTE = f"must be from 1 to {MAX_PER_MINUTE}"
_PER_MINUTE_OR_NONE = f"must be from 0 (no limit) to {MAX_PER_MINUTE}"

_AdminRequest = pb.OpenAdminSessionRequest | pb.AuthorizeAdminRequest | pb.CloseAdminSessionRequest


def new_session_rate(request: pb.CreateSessionRequest) -> Rate | None:
    """Of new sessions; None: unlimited. Raises InvalidRequestError."""
    if not request.HasField("rate"):
        return None
    rate = _rate(request.rate)
    if rate.kind is not RateKind.NEW_SESSION:
        raise InvalidRequestError((Violation(field="rate.kind", message="must be RATE_KIND_NEW_SESSION"),))
    return rate


def counted_rate(request: pb.CountEventRequest) -> Rate:
    """Of the event. Raises InvalidRequestError."""
    if not request.HasField("rate"):
        raise InvalidRequestError((Violation(field="rate", message="is required"),))
    return _rate(request.rate)


def generations_per_minute(request: pb.CheckSessionRequest) -> int:
    """0: none is counted. Raises InvalidRequestError."""
    if not 0 <= request.generations_per_minute <= MAX_PER_MINUTE:
        raise InvalidRequestError((Violation(field="generations_per_minute", message=_PER_MINUTE_OR_NONE),))
    return request.generations_per_minute


def admin_call(request: _AdminRequest) -> AdminCall:
    """The call, whose details have no control characters. Raises InvalidRequestError with everything that is wrong."""
    if not request.HasField("call"):
        raise InvalidRequestError((Violation(field="call", message="is required"),))
    call = request.call
    idle_s = seconds(call.idle_timeout)
    rules = {
        "call.action": (_ACTION.fullmatch(call.action), "must be 1 to 64 lower-case letters and underscores"),
        "call.address": (_is_printable(call.address, _MAX_ADDRESS), f"must be at most {_MAX_ADDRESS} printable characters"),
        "call.details": (len(call.details) <= _MAX_DETAILS, f"must be at most {_MAX_DETAILS} characters"),
        "call.key": (call.key in _KEYS_BACK, "must be one of AdminKey"),
        "call.idle_timeout": (0 < idle_s <= _MAX_IDLE.total_seconds(), f"must be above 0 and at most {_MAX_IDLE.days} days"),
        "call.bad_keys_per_minute": (0 <= call.bad_keys_per_minute <= MAX_PER_MINUTE, _PER_MINUTE_OR_NONE),
    }
    wrong = tuple(Violation(field=field, message=message) for field, (is_right, message) in rules.items() if not is_right)
    if wrong:
        raise InvalidRequestError(wrong)
    return AdminCall(
        action=call.action,
        address=call.address,
        details=told(call.details, _MAX_DETAILS),
        key=_KEYS_BACK[call.key],
        token=call.token,
        idle_timeout=timedelta(seconds=idle_s),
        bad_keys_per_minute=call.bad_keys_per_minute,
    )


def audit_limit(request: pb.ListAuditRequest) -> int:
    """How many entries are asked for. Raises InvalidRequestError."""
    if not 0 <= request.limit <= MAX_AUDIT_LIMIT:
        message = f"must be from 1 to {MAX_AUDIT_LIMIT}, or 0 for {DEFAULT_AUDIT_LIMIT}"
        raise InvalidRequestError((Violation(field="limit", message=message),))
    return request.limit or DEFAULT_AUDIT_LIMIT


def created_session(session: Session, token: str) -> pb.CreateSessionResponse:
    """The session with its token, which is shown this once."""
    return pb.CreateSessionResponse(token=token, expires_at=timestamp(session.expires_at))


def checked_session(checked: CheckedSession) -> pb.CheckSessionResponse:
    """What a token is worth."""
    session = checked.session
    return pb.CheckSessionResponse(
        state=_STATES[checked.state],
        session_id=session.session_id if session is not None and checked.state is SessionState.ACTIVE else "",
        expires_at=timestamp(session.expires_at) if session is not None else None,
    )


def verdict(answer: AdminAnswer) -> pb.AdminVerdict.ValueType:
    """Whether the call was let in."""
    return _VERDICTS[answer.verdict]


def last_activity_at(answer: AdminAnswer) -> Timestamp | None:
    """Of a call that was let in."""
    return None if answer.last_activity_at is None else timestamp(answer.last_activity_at)


def retry_after(answer: AdminAnswer) -> Duration | None:
    """Of a call that was rate limited."""
    return None if answer.retry_after_s is None else duration(whole_seconds(answer.retry_after_s))


def audit_entry(entry: AuditEntry) -> pb.AuditEntry:
    """An entry of the log."""
    return pb.AuditEntry(
        id=entry.entry_id,
        at=timestamp(entry.called_at),
        address=entry.address,
        action=entry.action,
        details=entry.details,
        success=entry.success,
    )


def _rate(rate: pb.Rate) -> Rate:
    rules = {
        "rate.kind": (rate.kind in _KINDS_BACK, "must be one of RateKind, and not unspecified"),
        "rate.subject": (rate.subject and _is_printable(rate.subject, _MAX_SUBJECT), f"must be 1 to {_MAX_SUBJECT} printable characters"),
        "rate.per_minute": (1 <= rate.per_minute <= MAX_PER_MINUTE, _PER_MINUTE),
    }
    wrong = tuple(Violation(field=field, message=message) for field, (is_right, message) in rules.items() if not is_right)
    if wrong:
        raise InvalidRequestError(wrong)
    return Rate(kind=_KINDS_BACK[rate.kind], subject=rate.subject, per_minute=rate.per_minute)


def _is_printable(text: str, longest: int) -> bool:
    return len(text) <= longest and text.isprintable()
