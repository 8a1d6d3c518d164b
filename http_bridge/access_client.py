"""Admission's AccessService as the bridge sees it: sessions, admin calls, the audit log, counts of rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmlane.admission.v1 import access_service_pb2 as access
from warmlane.admission.v1 import access_service_pb2_grpc

from http_bridge.calls import CALL_TIMEOUT_S, answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc.aio

# What is counted was refused already: nobody waits for its number for long.
_COUNT_TIMEOUT_S = 2.0


class AccessClient:
    """Calls over a channel that its owner closes.

    Every method raises `runtime.errors.ServiceError`: `rate_limited` when a rate is used up, `service_unavailable` when admission is out of
    reach.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Over this channel."""
        self._stub = access_service_pb2_grpc.AccessServiceStub(channel)

    async def create_session(self, address: str, per_minute: int) -> access.CreateSessionResponse:
        """Opens a generation session for an address that may open so many in a minute; 0: any number."""
        rate = access.Rate(kind=access.RATE_KIND_NEW_SESSION, subject=address, per_minute=per_minute) if per_minute else None
        return await answer(self._stub.CreateSession(access.CreateSessionRequest(rate=rate), timeout=CALL_TIMEOUT_S))

    async def check_session(self, token: str, generations_per_minute: int = 0) -> access.CheckSessionResponse:
        """Says what a session token is worth. With a limit, the call counts as a generation of the session."""
        message = access.CheckSessionRequest(token=token, generations_per_minute=generations_per_minute)
        return await answer(self._stub.CheckSession(message, timeout=CALL_TIMEOUT_S))

    async def count_bad_key(self, address: str, per_minute: int) -> None:
        """Counts a wrong API key from an address."""
        rate = access.Rate(kind=access.RATE_KIND_BAD_KEY, subject=address, per_minute=per_minute)
        await answer(self._stub.CountEvent(access.CountEventRequest(rate=rate), timeout=_COUNT_TIMEOUT_S))

    async def open_admin_session(self, call: access.AdminCall) -> access.OpenAdminSessionResponse:
        """Opens an admin session if the call's key is right."""
        return await answer(self._stub.OpenAdminSession(access.OpenAdminSessionRequest(call=call), timeout=CALL_TIMEOUT_S))

    async def authorize_admin(self, call: access.AdminCall) -> access.AuthorizeAdminResponse:
        """Says whether an admin call is let in."""
        return await answer(self._stub.AuthorizeAdmin(access.AuthorizeAdminRequest(call=call), timeout=CALL_TIMEOUT_S))

    async def close_admin_session(self, call: access.AdminCall) -> access.CloseAdminSessionResponse:
        """Ends the admin session of the call's token."""
        return await answer(self._stub.CloseAdminSession(access.CloseAdminSessionRequest(call=call), timeout=CALL_TIMEOUT_S))

    async def list_audit(self, limit: int) -> Sequence[access.AuditEntry]:
        """The newest entries of the audit log, newest first."""
        return (await answer(self._stub.ListAudit(access.ListAuditRequest(limit=limit), timeout=CALL_TIMEOUT_S))).entries
