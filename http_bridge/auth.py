"""Who may call: the API key or a generation session; the key wins when both come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyCookie, APIKeyHeader
from starlette.requests import Request

from http_bridge.addresses import client_address, client_subscriber
from http_bridge.context import Bridge, bridge_of
from http_bridge.convert import SessionCheck, session_check
from http_bridge.errors import HttpError
from http_bridge.keys import is_right_key
from http_bridge.origins import refuse_foreign_page
from runtime.errors import ErrorCode, ServiceError

SESSION_COOKIE = "gg_session"

# Tokens have 43 characters; whatever is much longer was not made by us and need not travel.
_LONGEST_TOKEN = 256

_KEY_HEADER = APIKeyHeader(name="X-API-Key", scheme_name="ApiKey", auto_error=False)
_SESSION_COOKIE = APIKeyCookie(name=SESSION_COOKIE, scheme_name="Session", auto_error=False)

_EXPIRED = "The generation session has expired."
_INVALID = "The generation session is not known."


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls. `owner` is `key` or `session:<session id>`; admission serves owners of one queue round robin."""

    owner: str

    @property
    def has_key(self) -> bool:
        """It holds the API key. Behind that there may be a server with many users."""
        return self == _BY_KEY


_BY_KEY = Caller(owner="key")


async def check_token(bridge: Bridge, token: str, *, generations_per_minute: int = 0) -> SessionCheck:
    """What the token of a session is worth. With a limit, the call counts as a generation of the session.

    Raises:
        HttpError: 401, it has expired or was never good.
        ServiceError: `rate_limited`, the session made too many generations; `service_unavailable`.
    """
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        raise HttpError("generation_session_invalid", _INVALID)
    known = None if generations_per_minute else bridge.sessions.find(token)
    if known is not None:
        return known
    check = session_check(await bridge.client.access.check_session(token, generations_per_minute))
    if check.state == "expired":
        raise HttpError("generation_session_expired", _EXPIRED)
    if check.state == "invalid":
        raise HttpError("generation_session_invalid", _INVALID)
    bridge.sessions.keep(token, check)
    return check


_Key = Annotated[str | None, Security(_KEY_HEADER)]
_Token = Annotated[str | None, Security(_SESSION_COOKIE)]


async def _caller_of(request: Request, key: _Key, token: _Token) -> Caller:
    return await _caller(request, key, token, generations_per_minute=0)


async def _generating_caller(request: Request, key: _Key, token: _Token) -> Caller:
    return await _caller(request, key, token, generations_per_minute=bridge_of(request).settings.generations_per_minute)


async def _caller(request: Request, key: str | None, token: str | None, *, generations_per_minute: int) -> Caller:
    bridge = bridge_of(request)
    by_key = await _caller_by_key(request, key)
    if by_key is not None:
        return by_key
    if token:
        refuse_foreign_page(request)
        check = await check_token(bridge, token, generations_per_minute=generations_per_minute)
        return Caller(owner=f"session:{check.session_id}")
    raise HttpError(ErrorCode.UNAUTHENTICATED, "This path needs an API key or a session.")


async def _caller_with_key(request: Request, key: _Key) -> Caller:
    by_key = await _caller_by_key(request, key)
    if by_key is None:
        raise HttpError(ErrorCode.UNAUTHENTICATED, "This path needs an API key in the header X-API-Key; a session does not open it.")
    return by_key


async def _caller_by_key(request: Request, key: str | None) -> Caller | None:
    """The caller when the key decides; None when no key was sent. An empty header counts as none."""
    bridge = bridge_of(request)
    configured = bridge.settings.api_key
    if configured is None:
        if bridge.settings.allow_unauthenticated:
            # Whoever reaches the port may call; a page that the browser of somebody in reach shows may not.
            refuse_foreign_page(request)
            return _BY_KEY
        detail = "The server has no API key: its operator must set WARMLANE_API_KEY."
        raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, detail, metadata={"missing_setting": "WARMLANE_API_KEY"}, retry_after_s=60)
    if not key:
        return None
    if not is_right_key(key, configured):
        await _count_wrong_key(request, bridge)
        raise HttpError(ErrorCode.FORBIDDEN, "The API key is not right.")
    return _BY_KEY


async def _count_wrong_key(request: Request, bridge: Bridge) -> None:
    """Raises ServiceError `rate_limited` when too many came from there. A right key is never refused for others' wrong ones."""
    limit = bridge.settings.bad_keys_per_minute
    if not limit:
        return
    try:
        await bridge.client.access.count_bad_key(client_address(request), limit)
    except ServiceError as error:
        # The key is wrong, whether or not it can be counted.
        if error.code == ErrorCode.RATE_LIMITED:
            raise


def visible_to(bridge: Bridge, caller: Caller) -> str:
    """The one owner whose tasks the caller may see and touch; empty: everyone's. The API key sees all, others in a shared gallery too."""
    return caller.owner if bridge.settings.gallery_private and caller != _BY_KEY else ""


def sharer(request: Request, caller: Caller) -> str:
    """Who the caller is where few places are shared: its address, as sessions are had for the asking; nobody, with the API key."""
    return "" if caller.has_key else client_subscriber(request.scope)


CallerDependency = Annotated[Caller, Depends(_caller_of)]
"""Key or session."""

KeyCallerDependency = Annotated[Caller, Depends(_caller_with_key)]
"""Key only."""

GeneratingCallerDependency = Annotated[Caller, Depends(_generating_caller)]
"""Key or session; of a session it counts as a generation, before anything of the body is read."""
