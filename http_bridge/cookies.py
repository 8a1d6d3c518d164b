"""The attributes that every cookie of the bridge has."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from http_bridge.config import BridgeSettings, SameSite


class CookieAttributes(TypedDict):
    """As Starlette's `set_cookie` and `delete_cookie` take them; both must be told the same, or a browser keeps the old one."""

    path: str
    secure: bool
    httponly: bool
    samesite: SameSite


def cookie_attributes(settings: BridgeSettings) -> CookieAttributes:
    """No script reads them, every path gets them; the rest is from the settings."""
    return CookieAttributes(path="/", secure=settings.cookie_secure, httponly=True, samesite=settings.sent_samesite())
