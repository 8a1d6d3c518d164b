"""Who may call the admin paths: the admin key or an admin session, decided and audited by admission in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Security
from fastapi.security import APIKeyCookie, APIKeyHeader
from google.protobuf.duration_pb2 import Duration
from starlette.requests import Request
from warmlane.admission.v1 import access_service_pb2 as access

from http_bridge.addresses import client_address
from http_bridge.context import bridge_of
from http_bridge.convert import moment
from http_bridge.errors import HttpError
from http_bridge.keys import is_right_key
from http_bridge.origins import foreign_page_error, is_foreign_page

if TYPE_CHECKING:
    from http_bridge.config import BridgeSettings

ADMIN_COOKIE = "gg_admin_session"

MIN_KEY_CHARACTERS = 16
"""A shorter admin key is as good as none: people choose it, and the paths stand where anyone can try."""

# Tokens have 43 characters; what is longer cannot be one, and the rest of it need not travel.
_LONGEST_TOKEN = 64
_MAX_DETAILS = 512

_KEY_HEADER = APIKeyHeader(name="X-Admin-Key", scheme_name="AdminKey", auto_error=False)
_SESSION_COOKIE = APIKeyCookie(name=ADMIN_COOKIE, scheme_name="AdminSession", auto_error=False)

_REFUSALS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        access.ADMIN_VERDICT_KEY_INVALID: ("admin_key_invalid", "The admin key is not right."),
        access.ADMIN_VERDICT_MISCONFIGURED: (
            "admin_misconfigured",
            f"The server has no admin key, or one of less than {MIN_KEY_CHARACTERS} characters: nobody is let in.",
        ),
        access.ADMIN_VERDICT_SESSION_MISSING: ("admin_session_missing", "This path needs an admin session or the admin key."),
        access.ADMIN_VERDICT_SESSION_INVALID: ("admin_session_invalid", "The admin session is not known, or was ended."),
        access.ADMIN_VERDICT_SESSION_EXPIRED: ("admin_session_expired", "The admin session was not used for too long."),
        access.ADMIN_VERDICT_RATE_LIMITED: ("admin_rate_limited", "Too many wrong admin keys came from this address."),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminGrant:
    """An admin call that was let in, and is in the audit log. `last_activity_at` is the time of this call."""

    action: str
    last_activity_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAttempt:
    """An admin call before anybody decided about it: the message for admission, and whether a foreign page makes it."""

    call: access.AdminCall
    is_foreign: bool

    @property
    def has_credential(self) -> bool:
        """Something was shown that may let it in; whether it does, only admission says."""
        return self.call.key == access.ADMIN_KEY_RIGHT or bool(self.call.token)

    def check(self, verdict: int, retry_after: Duration) -> None:
        """Returns when the call was let in.

        Raises:
            HttpError: it was not; the code says why.
        """
        if verdict == access.ADMIN_VERDICT_GRANTED:
            return
        if self.is_foreign and verdict == access.ADMIN_VERDICT_SESSION_MISSING:
            raise foreign_page_error()
        # A verdict of a newer admission lets nobody in here.
        code, detail = _REFUSALS.get(verdict, _REFUSALS[access.ADMIN_VERDICT_SESSION_INVALID])
        wait_s = retry_after.ToNanoseconds() / 1e9 if verdict == access.ADMIN_VERDICT_RATE_LIMITED else None
        raise HttpError(code, detail, retry_after_s=wait_s or None)


_Key = Annotated[str | None, Security(_KEY_HEADER)]
_Token = Annotated[str | None, Security(_SESSION_COOKIE)]


def attempt(action: str) -> Any:
    """A dependency that describes the call under the action's name and decides nothing. Whoever uses it must ask admission and `check`."""

    async def described(request: Request, key: _Key, token: _Token) -> AdminAttempt:
        return _attempt(request, action, key, token)

    return Depends(described)


def admin(action: str) -> Any:
    """A dependency that lets an admin call in, or refuses it; both are in the audit log under the action's name (a-z and _, at most 64).

    Use it as `grant: Annotated[AdminGrant, admin("admin_health")]`, or in a route's `dependencies`. Its errors are `HttpError`s with the
    contract's codes, and `ServiceError` `service_unavailable` while admission is away: then nobody is let in.
    """

    async def authorized(request: Request, key: _Key, token: _Token) -> AdminGrant:
        return await let_in(request, _attempt(request, action, key, token))

    return Depends(authorized)


async def let_in(request: Request, attempted: AdminAttempt, *, action: str | None = None, subject: str = "") -> AdminGrant:
    """Asks admission, which audits the call. Raises as `admin`.

    Args:
        request: of the call.
        attempted: what was described of it.
        action: what it turned out to be; None: as described.
        subject: of whom it speaks: a name that is known here, and no value that was sent, because any could be a secret.
    """
    call = attempted.call
    call.action = action or call.action
    if subject:
        call.details = f"{call.details}, {subject}"[:_MAX_DETAILS]
    reply = await bridge_of(request).client.access.authorize_admin(call)
    attempted.check(reply.verdict, reply.retry_after)
    return AdminGrant(action=call.action, last_activity_at=moment(reply.last_activity_at))


def _attempt(request: Request, action: str, key: str | None, token: str | None) -> AdminAttempt:
    is_foreign = not key and is_foreign_page(request)
    settings = bridge_of(request).settings
    call = access.AdminCall(
        action=action,
        address=client_address(request),
        details=_details(request, is_foreign=is_foreign),
        key=_key_state(settings, key),
        # The cookie of a browser whose page must not use it counts for nothing.
        token="" if is_foreign else (token or "")[:_LONGEST_TOKEN],
        bad_keys_per_minute=settings.bad_keys_per_minute,
    )
    call.idle_timeout.FromNanoseconds(round(settings.admin_idle_timeout_s * 1e9))
    return AdminAttempt(call=call, is_foreign=is_foreign)


def _details(request: Request, *, is_foreign: bool) -> str:
    """Method and route: never a value that was sent, because any could be a secret."""
    route = getattr(request.scope.get("route"), "path", "")
    details = f"{request.method} {route}"
    return (f"{details}, from a page of another origin" if is_foreign else details)[:_MAX_DETAILS]


def _key_state(settings: BridgeSettings, key: str | None) -> access.AdminKey.ValueType:
    configured = settings.admin_key
    if configured is None or len(configured.get_secret_value()) < MIN_KEY_CHARACTERS:
        return access.ADMIN_KEY_MISCONFIGURED
    if not key:
        return access.ADMIN_KEY_ABSENT
    return access.ADMIN_KEY_RIGHT if is_right_key(key, configured) else access.ADMIN_KEY_WRONG
