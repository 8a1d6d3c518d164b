"""The headers that keep browsers from doing with a reply what it is not for; on every reply, whoever made it."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
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
_EMBEDDED = tuple((prefix, (b"cross-origin-resource-policy", b"cross-origin")) for prefix in (b"video/", b"image/jpeg"))
_SAFE = tuple((name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS)
_SAFE_STRICT = (*_SAFE, (b"strict-transport-security", _STRICT_TRANSPORT.encode()))


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
                message["headers"] = _with_safe(message.get("headers", ()), is_https=scope["scheme"] == "https")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _with_safe(sent: Iterable[tuple[bytes, bytes]], *, is_https: bool) -> list[tuple[bytes, bytes]]:
    """The headers of a reply, with those of ours that it does not bring."""
    # On every reply: made of what was encoded once.
    headers = list(sent)
    own = dict(headers)
    media_type = own.get(b"content-type", b"")
    defaults = [pair for prefix, pair in _EMBEDDED if media_type.startswith(prefix)]
    defaults += _SAFE_STRICT if is_https else _SAFE
    for name, value in defaults:
        if name not in own:
            own[name] = value
            headers.append((name, value))
    # Also where no Origin came: a cache must not give that reply to a page.
    if b"vary" not in own:
        headers.append((b"vary", b"Origin"))
    else:
        MutableHeaders(raw=headers).add_vary_header("Origin")
    return headers
