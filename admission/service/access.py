"""AccessService: generation sessions, kept where every bridge sees them."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from warmlane.admission.v1 import access_service_pb2 as pb
from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceServicer

from admission.service import convert
from admission.store.port import Session

if TYPE_CHECKING:
    from admission.service.doors import Doors
    from admission.service.port import Sessions
    from runtime.clock import Clock

SESSION_LIFE = timedelta(hours=24)
_TOKEN_BYTES = 32


class AccessService(AccessServiceServicer):
    """Opens and checks sessions. The token itself is never kept or logged."""

    def __init__(self, *, sessions: Sessions, clock: Clock, doors: Doors) -> None:
        """Serves from these sessions."""
        self._sessions = sessions
        self._clock = clock
        self._doors = doors

    async def CreateSession(self, request: pb.CreateSessionRequest, context: object) -> pb.CreateSessionResponse:
        """Opens a session for 24 h."""
        self._doors.check()
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        session = Session(
            session_id=secrets.token_hex(16),
            token_sha256=_sha256(token),
            expires_at=self._clock.now().utc + SESSION_LIFE,
        )
        await self._sessions.add_session(session)
        return convert.created_session(session, token)

    async def CheckSession(self, request: pb.CheckSessionRequest, context: object) -> pb.CheckSessionResponse:
        """Says what a token is worth; at exactly its end a session is over."""
        self._doors.check()
        session = await self._sessions.session(_sha256(request.token)) if request.token else None
        return convert.checked_session(session, self._clock.now().utc)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
