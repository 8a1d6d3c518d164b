"""A stand-in for admission's AccessService and the readable part of its OperatorService: plain dictionaries, no clock."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from warmlane.admission.v1 import access_service_pb2 as access
from warmlane.admission.v1 import access_service_pb2_grpc, operator_service_pb2, operator_service_pb2_grpc
from warmlane.admission.v1.task_pb2 import TaskEvent

from runtime.errors import ErrorCode, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXPIRES_AT = datetime(2026, 1, 2, 12, tzinfo=UTC)
ACTIVE_AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
RETRY_AFTER_S = 17


def stamp(moment: datetime) -> Timestamp:
    """A protobuf time."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


@dataclass
class AccessDouble:
    """What tests set and look at.

    Attributes:
        sessions: generation sessions by token: state and session id.
        admin_sessions: verdict by token; tokens that are not there are invalid.
        used: how often each rate was used, by kind and subject; never forgotten unless a test clears it.
        checked: every CheckSession, in order.
        admin_calls: every admin call, in order.
        audit: what ListAudit answers, newest first.
        refusal: what every call but CheckSession answers instead; None to serve.
        snapshot: what GetSnapshot answers.
        events: what WatchEvents reads.
        watched: every WatchEvents, in order.
    """

    sessions: dict[str, tuple[access.SessionState.ValueType, str]] = field(default_factory=dict)
    admin_sessions: dict[str, access.AdminVerdict.ValueType] = field(default_factory=dict)
    used: Counter[tuple[int, str]] = field(default_factory=Counter)
    checked: list[access.CheckSessionRequest] = field(default_factory=list)
    admin_calls: list[access.AdminCall] = field(default_factory=list)
    audit: deque[access.AuditEntry] = field(default_factory=deque)
    expires_at: datetime = EXPIRES_AT
    refusal: ServiceError | None = None
    snapshot: operator_service_pb2.GetSnapshotResponse = field(default_factory=operator_service_pb2.GetSnapshotResponse)
    events: list[TaskEvent] = field(default_factory=list)
    watched: list[operator_service_pb2.WatchEventsRequest] = field(default_factory=list)

    def check_refusal(self) -> None:
        """Raises the refusal that was set."""
        if self.refusal is not None:
            raise self.refusal

    def use(self, kind: int, subject: str, per_minute: int) -> None:
        """Uses one of a rate; raises when it is used up."""
        if self.used[kind, subject] >= per_minute:
            raise ServiceError(code=ErrorCode.RATE_LIMITED, message="Too many.", retry_after_s=RETRY_AFTER_S)
        self.used[kind, subject] += 1

    def decide(self, call: access.AdminCall) -> access.AdminVerdict.ValueType:
        """The verdict, written into the audit log."""
        self.check_refusal()
        self.admin_calls.append(call)
        verdict = self._verdict(call)
        success = verdict == access.ADMIN_VERDICT_GRANTED
        entry = access.AuditEntry(id=len(self.audit) + 1, address=call.address, action=call.action, details=call.details, success=success)
        entry.at.CopyFrom(stamp(ACTIVE_AT))
        self.audit.appendleft(entry)
        return verdict

    def _verdict(self, call: access.AdminCall) -> access.AdminVerdict.ValueType:
        wrong = (access.ADMIN_KEY_WRONG, call.address)
        if call.key == access.ADMIN_KEY_MISCONFIGURED:
            return access.ADMIN_VERDICT_MISCONFIGURED
        if call.key == access.ADMIN_KEY_ABSENT:
            unknown = access.ADMIN_VERDICT_SESSION_INVALID if call.token else access.ADMIN_VERDICT_SESSION_MISSING
            return self.admin_sessions.get(call.token, unknown)
        if call.bad_keys_per_minute and self.used[wrong] >= call.bad_keys_per_minute:
            return access.ADMIN_VERDICT_RATE_LIMITED
        if call.key == access.ADMIN_KEY_RIGHT:
            return access.ADMIN_VERDICT_GRANTED
        self.used[wrong] += 1
        return access.ADMIN_VERDICT_KEY_INVALID


class Access(access_service_pb2_grpc.AccessServiceServicer):
    """AccessService over a double."""

    def __init__(self, double: AccessDouble) -> None:
        """Answers from it."""
        self._double = double

    async def CreateSession(self, request: access.CreateSessionRequest, _context: object) -> access.CreateSessionResponse:  # noqa: N802
        self._double.check_refusal()
        if request.HasField("rate"):
            self._double.use(request.rate.kind, request.rate.subject, request.rate.per_minute)
        token = f"token-{len(self._double.sessions)}"
        self._double.sessions[token] = (access.SessionState.SESSION_STATE_ACTIVE, f"id-{len(self._double.sessions)}")
        return access.CreateSessionResponse(token=token, expires_at=stamp(self._double.expires_at))

    async def CheckSession(self, request: access.CheckSessionRequest, _context: object) -> access.CheckSessionResponse:  # noqa: N802
        self._double.checked.append(request)
        state, session_id = self._double.sessions.get(request.token, (access.SessionState.SESSION_STATE_INVALID, ""))
        if request.generations_per_minute and state == access.SessionState.SESSION_STATE_ACTIVE:
            self._double.use(access.RATE_KIND_GENERATION, session_id, request.generations_per_minute)
        return access.CheckSessionResponse(state=state, session_id=session_id, expires_at=stamp(self._double.expires_at))

    async def CountEvent(self, request: access.CountEventRequest, _context: object) -> access.CountEventResponse:  # noqa: N802
        self._double.check_refusal()
        self._double.use(request.rate.kind, request.rate.subject, request.rate.per_minute)
        return access.CountEventResponse()

    async def OpenAdminSession(self, request: access.OpenAdminSessionRequest, _context: object) -> access.OpenAdminSessionResponse:  # noqa: N802
        request.call.token = ""
        reply = access.OpenAdminSessionResponse(verdict=self._double.decide(request.call))
        reply.retry_after.FromSeconds(RETRY_AFTER_S)
        if reply.verdict == access.ADMIN_VERDICT_GRANTED:
            reply.token = f"admin-token-{len(self._double.admin_sessions)}"
            self._double.admin_sessions[reply.token] = access.ADMIN_VERDICT_GRANTED
        return reply

    async def AuthorizeAdmin(self, request: access.AuthorizeAdminRequest, _context: object) -> access.AuthorizeAdminResponse:  # noqa: N802
        reply = access.AuthorizeAdminResponse(verdict=self._double.decide(request.call), last_activity_at=stamp(ACTIVE_AT))
        reply.retry_after.FromSeconds(RETRY_AFTER_S)
        return reply

    async def CloseAdminSession(self, request: access.CloseAdminSessionRequest, _context: object) -> access.CloseAdminSessionResponse:  # noqa: N802
        reply = access.CloseAdminSessionResponse(verdict=self._double.decide(request.call))
        reply.retry_after.FromSeconds(RETRY_AFTER_S)
        if reply.verdict == access.ADMIN_VERDICT_GRANTED:
            self._double.admin_sessions.pop(request.call.token, None)
        return reply

    async def ListAudit(self, request: access.ListAuditRequest, _context: object) -> access.ListAuditResponse:  # noqa: N802
        self._double.check_refusal()
        return access.ListAuditResponse(entries=list(self._double.audit)[: request.limit or 100])


class Operator(operator_service_pb2_grpc.OperatorServiceServicer):
    """What the bridge reads of OperatorService."""

    def __init__(self, double: AccessDouble) -> None:
        """Answers from it."""
        self._double = double

    async def GetSnapshot(self, _request: object, _context: object) -> operator_service_pb2.GetSnapshotResponse:  # noqa: N802
        self._double.check_refusal()
        return self._double.snapshot

    async def WatchEvents(  # noqa: N802
        self, request: operator_service_pb2.WatchEventsRequest, _context: object
    ) -> AsyncIterator[operator_service_pb2.WatchEventsResponse]:
        self._double.watched.append(request)
        last = self._double.events[-1].sequence if self._double.events else 0
        if request.only_new:
            yield operator_service_pb2.WatchEventsResponse(last_sequence=last)
            return
        found = [
            event for event in self._double.events if event.sequence > request.after_sequence and event.event_type in request.event_types
        ]
        for first in range(0, len(found), 256):
            page = found[first : first + 256]
            yield operator_service_pb2.WatchEventsResponse(events=page, last_sequence=page[-1].sequence)
