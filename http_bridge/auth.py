"""Who may call: the API key or a generation session; the key wins when both come."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyCookie, APIKeyHeader
from starlette.requests import Request

from http_bridge.context import Bridge, bridge_of
from http_bridge.convert import SessionCheck, session_check
from http_bridge.errors import HttpError
from runtime.errors import ErrorCode

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


_BY_KEY = Caller(owner="key")


async def check_token(bridge: Bridge, token: str) -> SessionCheck:
    """What the token of a session is worth.

    Raises:
        HttpError: 401, it has expired or was never good.
    """
    if len(token) > _LONGEST_TOKEN or not token.isascii():
        raise HttpError("generation_session_invalid", _INVALID)
    check = session_check(await bridge.client.check_session(token))
    if check.state == "expired":
        raise HttpError("generation_session_expired", _EXPIRED)
    if check.state == "invalid":
        raise HttpError("generation_session_invalid", _INVALID)
    return check


async def _caller_of(
    request: Request, key: Annotated[str | None, Security(_KEY_HEADER)], token: Annotated[str | None, Security(_SESSION_COOKIE)]
) -> Caller:
    bridge = bridge_of(request)
    by_key = _caller_by_key(bridge, key)
    if by_key is not None:
        return by_key
    if token:
        return Caller(owner=f"session:{(await check_token(bridge, token)).session_id}")
    raise HttpError(ErrorCode.UNAUTHENTICATED, "This path needs an API key or a session.")


async def _caller_with_key(request: Request, key: Annotated[str | None, Security(_KEY_HEADER)]) -> Caller:
    by_key = _caller_by_key(bridge_of(request), key)
    if by_key is None:
        raise HttpError(ErrorCode.UNAUTHENTICATED, "This path needs an API key in the header X-API-Key; a session does not open it.")
    return by_key


def _caller_by_key(bridge: Bridge, key: str | None) -> Caller | None:
    """The caller when the key decides; None when no key was sent. An empty header counts as none."""
    configured = bridge.settings.api_key
    if configured is None:
        if bridge.settings.allow_unauthenticated:
            return _BY_KEY
        detail = "The server has no API key: its operator must set WARMLANE_API_KEY."
        raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, detail, metadata={"missing_setting": "WARMLANE_API_KEY"}, retry_after_s=60)
    if not key:
        return None
    if not _same(key.encode("latin-1"), configured.get_secret_value().encode()):
        raise HttpError(ErrorCode.FORBIDDEN, "The API key is not right.")
    return _BY_KEY


def visible_to(bridge: Bridge, caller: Caller) -> str:
    """The one owner whose tasks the caller may see and touch; empty: everyone's. The API key sees all, others in a shared gallery too."""
    return caller.owner if bridge.settings.gallery_private and caller != _BY_KEY else ""


def _same(sent: bytes, right: bytes) -> bool:
    # Digests first: the comparison then takes the same time whatever the lengths are.
    return hmac.compare_digest(hashlib.sha256(sent).digest(), hashlib.sha256(right).digest())


CallerDependency = Annotated[Caller, Depends(_caller_of)]
"""Key or session."""

KeyCallerDependency = Annotated[Caller, Depends(_caller_with_key)]
"""Key only."""
