"""Middleware that breaks the replies of a good server, one at a time, for tests of who must notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request's line and headers, and the whole reply to it. Names of headers are in lower case; `sent` are those of the request."""

    method: str
    path: str
    sent: dict[str, str]
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def with_document(self, document: Any) -> Exchange:
        """With another JSON body."""
        return self.with_body(json.dumps(document).encode())

    def with_body(self, body: bytes) -> Exchange:
        """With another body of the right length."""
        return replace(self, body=body).with_header("content-length", str(len(body)))

    def with_header(self, name: str, value: str | None) -> Exchange:
        """With a header set, or left out."""
        kept = [(other, text) for other, text in self.headers if other != name]
        return replace(self, headers=kept if value is None else [*kept, (name, value)])

    def with_status(self, status: int) -> Exchange:
        """With another status."""
        return replace(self, status=status)


Rule = Callable[[Exchange], Exchange]


@dataclass
class Breaker:
    """What breaks now; None: nothing. `seen` are the requests, in order."""

    rule: Rule | None = None
    seen: list[str] = field(default_factory=list)


class Breaking:
    """The middleware. It holds every reply back until it is whole."""

    def __init__(self, app: ASGIApp, breaker: Breaker) -> None:
        """Wraps the application."""
        self._app = app
        self._breaker = breaker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        rule = self._breaker.rule
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._breaker.seen.append(f"{scope['method']} {scope['path']}")
        if rule is None:
            await self._app(scope, receive, send)
            return
        start: list[Message] = []
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.append(message)
            else:
                body.extend(message.get("body", b""))

        await self._app(scope, receive, collect)
        broken = rule(
            Exchange(
                method=scope["method"],
                path=scope["path"],
                sent=_texts(scope["headers"]),
                status=start[0]["status"],
                headers=[(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start[0]["headers"]],
                body=bytes(body),
            )
        )
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in broken.headers]
        await send({"type": "http.response.start", "status": broken.status, "headers": headers})
        await send({"type": "http.response.body", "body": broken.body})


def _texts(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
