"""Generation sessions: opened here, kept by admission, carried in a cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Cookie
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.addresses import client_address
from http_bridge.auth import SESSION_COOKIE, check_token
from http_bridge.context import bridge_of
from http_bridge.convert import moment
from http_bridge.cookies import cookie_attributes
from http_bridge.errors import HttpError
from http_bridge.origins import refuse_foreign_page
from http_bridge.schemas import SessionOpened, SessionReply

router = APIRouter(prefix="/auth/session", tags=["session"])


@router.post("", status_code=201)
async def open_session(request: Request, response: Response) -> SessionOpened:
    """Opens a session of 24 h, not renewed, and sets the cookie `gg_session`."""
    refuse_foreign_page(request)
    bridge = bridge_of(request)
    opened = await bridge.client.access.create_session(client_address(request), bridge.settings.new_sessions_per_minute)
    expires_at = moment(opened.expires_at)
    response.set_cookie(SESSION_COOKIE, opened.token, expires=expires_at, **cookie_attributes(bridge.settings))
    return SessionOpened(session_status="active", expires_at=expires_at)


@router.get("")
async def check_session(request: Request, gg_session: Annotated[str | None, Cookie(include_in_schema=False)] = None) -> SessionReply:
    """Says until when the session of the cookie is good; 401 says why it is not."""
    if not gg_session:
        raise HttpError("generation_session_missing", "No generation session was sent.")
    check = await check_token(bridge_of(request), gg_session)
    return SessionReply(active=True, expires_at=check.expires_at)
