"""The headers that keep browsers from doing with a reply what it is not for; on every reply, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# A reply is data: nothing in it may load, run, or be framed. The video and the picture are for the tab that shows nothing else.
_DATA_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the documentation's page: its own scripts and styles, no others, none in its text."""

SAFE_HEADERS: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", _DATA_POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
"""Unless the reply brings its own."""

# For a year: browsers then use https for this host without asking.
_STRICT_TRANSPORT = "max-age=31536000"
# A page of an allowed origin shows them in its own elements, which do not ask first (no CORS).
_EMBEDDED: Mapping[str, str] = MappingProxyType({"video/": "cross-origin", "image/jpeg": "cross-origin"})


class ReplyHeaders:
    """Sets them. Outside everything that makes replies."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                _add(MutableHeaders(scope=message), is_https=scope["scheme"] == "https")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _add(headers: MutableHeaders, *, is_https: bool) -> None:
    media_type = headers.get("content-type", "")
    for prefix, policy in _EMBEDDED.items():
        if media_type.startswith(prefix):
            headers.setdefault("Cross-Origin-Resource-Policy", policy)
    for name, value in SAFE_HEADERS:
        headers.setdefault(name, value)
    if is_https:
        headers.setdefault("Strict-Transport-Security", _STRICT_TRANSPORT)
    # Also where no Origin came: a cache must not give that reply to a page.
    headers.add_vary_header("Origin")
