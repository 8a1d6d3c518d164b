"""The headers that keep browsers from doing with a reply what it is not for; on every reply, whoever made it."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# A reply is data: nothing in it may load, run, or be framed. The video and the picture are for the tab that shows nothing else.
_DATA_POLICY = "default-src 'none'; img-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the documentation's page: its own scripts and styles, no others, none in its text."""

APPLICATION_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the pages for people: as above, and the videos of this server and the pictures that a person chose."""

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
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
# A page of an allowed origin shows them in its own elements, which do not ask first (no CORS).
_EMBEDDED = (b"video/", b"image/jpeg")
_CROSS_ORIGIN = (b"cross-origin-resource-policy", b"cross-origin")
# Also where no Origin came: a cache must not give that reply to a page.
_VARY = (b"vary", b"Origin")
_RAW = tuple((name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS)


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
                message["headers"] = _completed(tuple(message.get("headers", ())), is_https=scope["scheme"] == "https")
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _completed(headers: Sequence[tuple[bytes, bytes]], *, is_https: bool) -> list[tuple[bytes, bytes]]:
    # By hand, because every reply passes here. Names are in lower case already, as ASGI has them.
    own = dict(headers)
    completed = [*headers, *(header for header in _RAW if header[0] not in own)]
    if own.get(b"content-type", b"").startswith(_EMBEDDED) and _CROSS_ORIGIN[0] not in own:
        completed = [header if header[0] != _CROSS_ORIGIN[0] else _CROSS_ORIGIN for header in completed]
    if is_https and _STRICT_TRANSPORT[0] not in own:
        completed.append(_STRICT_TRANSPORT)
    # Several lines of one header are one list.
    if b"vary" not in own or not _varies_by_origin(headers):
        completed.append(_VARY)
    return completed


def _varies_by_origin(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    lists = (value for name, value in headers if name == b"vary")
    return any(entry.strip().lower() in (b"origin", b"*") for value in lists for entry in value.split(b","))
