"""What surrounds every request: cross-origin rules, the access log, and the net under all errors."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from http_bridge.errors import HttpError, unexpected
from runtime.logs import BusyLog

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

CORS_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
CORS_REQUEST_HEADERS = (
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Range",
    "X-API-Key",
    "X-Admin-Key",
    "traceparent",
    "tracestate",
)
CORS_REPLY_HEADERS = ("Accept-Ranges", "Content-Disposition", "Content-Length", "Content-Range", "ETag", "Retry-After")


class Cors(CORSMiddleware):
    """CORS with the error envelope for a refused preflight. Outside everything, so that error replies have its headers too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. One without Origin gets nothing but `Vary`, which `ReplyHeaders` gives every reply."""
        if scope["type"] == "http" and not any(name == b"origin" for name, _ in scope["headers"]):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        refused = HttpError("bad_request", f"{bytes(response.body).decode()}.", headers={"Vary": response.headers["Vary"]})
        return refused.response()


class Edge:
    """Logs each request once, and turns what nobody caught into the envelope."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps the application."""
        self._app = app
        self._log = structlog.get_logger(__name__)
        self._requests = BusyLog(__name__, "http_request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s = time.monotonic()
        status = 0

        async def send_noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception:
            self._log.exception("http_request_failed", method=scope["method"], path=scope["path"])
            if status:
                # Half a reply is out: only a broken connection can tell the client.
                raise
            await unexpected().response()(scope, receive, send_noted)
        finally:
            self._log_request(scope, status, time.monotonic() - started_s)

    def _log_request(self, scope: Scope, status: int, duration_s: float) -> None:
        # The path alone: a query may hold what people typed. Probes are no news.
        told = {"method": scope["method"], "path": scope["path"], "status": status, "duration_ms": round(duration_s * 1000, 1)}
        if scope["path"].endswith("/health"):
            self._log.debug("http_request", **told)
        else:
            self._requests.write(told)
