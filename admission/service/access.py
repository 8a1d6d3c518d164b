"""AccessService: sessions, the audit log and rates, kept where every bridge sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmlane.admission.v1 import access_service_pb2 as pb
from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceServicer

from admission.service import convert_access as convert

if TYPE_CHECKING:
    from admission.service.doors import Doors
    from admission.service.port import AccessController


class AccessService(AccessServiceServicer):
    """Checks what is asked, and answers. No token is ever logged."""

    def __init__(self, *, access: AccessController, doors: Doors) -> None:
        """Serves from it while the doors are open."""
        self._access = access
        self._doors = doors

    async def CreateSession(self, request: pb.CreateSessionRequest, context: object) -> pb.CreateSessionResponse:
        """Opens a generation session for 24 h."""
        self._doors.check()
        rate = convert.new_session_rate(request)
        return convert.created_session(*await self._access.create_session(rate))

    async def CheckSession(self, request: pb.CheckSessionRequest, context: object) -> pb.CheckSessionResponse:
        """Says what a token is worth."""
        self._doors.check()
        per_minute = convert.generations_per_minute(request)
        return convert.checked_session(await self._access.check_session(request.token, per_minute))

    async def CountEvent(self, request: pb.CountEventRequest, context: object) -> pb.CountEventResponse:
        """Counts one event of a rate."""
        self._doors.check()
        self._access.count(convert.counted_rate(request))
        return pb.CountEventResponse()

    async def OpenAdminSession(self, request: pb.OpenAdminSessionRequest, context: object) -> pb.OpenAdminSessionResponse:
        """Opens an admin session for the right key."""
        self._doors.check()
        answer = await self._access.open_admin_session(convert.admin_call(request))
        return pb.OpenAdminSessionResponse(verdict=convert.verdict(answer), token=answer.token, retry_after=convert.retry_after(answer))

    async def AuthorizeAdmin(self, request: pb.AuthorizeAdminRequest, context: object) -> pb.AuthorizeAdminResponse:
        """Says whether an admin call is let in."""
        self._doors.check()
        answer = await self._access.authorize_admin(convert.admin_call(request))
        return pb.AuthorizeAdminResponse(
            verdict=convert.verdict(answer),
            last_activity_at=convert.last_activity_at(answer),
            retry_after=convert.retry_after(answer),
        )

    async def CloseAdminSession(self, request: pb.CloseAdminSessionRequest, context: object) -> pb.CloseAdminSessionResponse:
        """Ends an admin session."""
        self._doors.check()
        answer = await self._access.close_admin_session(convert.admin_call(request))
        return pb.CloseAdminSessionResponse(verdict=convert.verdict(answer), retry_after=convert.retry_after(answer))

    async def ListAudit(self, request: pb.ListAuditRequest, context: object) -> pb.ListAuditResponse:
        """The newest entries of the audit log."""
        self._doors.check()
        entries = await self._access.audit(convert.audit_limit(request))
        return pb.ListAuditResponse(entries=[convert.audit_entry(entry) for entry in entries])
