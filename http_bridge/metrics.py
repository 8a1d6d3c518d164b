"""Counts the bridge's requests: what each route is asked for, how it ends, how long it takes and how much it sends."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from runtime.metrics.definition import counter, gauge, histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.types import ASGIApp, Receive, Scope, Send

REQUESTS = counter(
    "http_requests_total",
    "Requests that ended, by status; the code is none when the client went away before there was one. Both prefixes count alike.",
    "route",
    "method",
    "code",
)
SECONDS = histogram(
    "http_request_seconds",
    "Seconds from a request's arrival to the end of the reply; a held request waits for up to 30 of them.",
    "route",
    "method",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
SENT = counter("http_sent_bytes_total", "Bytes of the bodies of replies that were sent.", "route")
REFUSED = counter(
    "http_refused_total",
    "Connections that were refused or cut before a request came to the routes, and slow readers that were cut, by reason.",
    "reason",
)
RUNNING = gauge("http_running_requests", "Requests that have not ended.")
UPSTREAM_REQUESTS = counter(
    "http_upstream_requests_total",
    "Requests to the servers of the image models and of the accounts that ended, by status; the code is none when no reply came.",
    "upstream",
    "call",
    "code",
)
UPSTREAM_SECONDS = histogram(
    "http_upstream_seconds",
    "Seconds from such a request to the end of its reply; a file ends when the client has it.",
    "upstream",
    "call",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)

ALL = (REQUESTS, SECONDS, SENT, REFUSED, RUNNING, UPSTREAM_REQUESTS, UPSTREAM_SECONDS)

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_OTHER = "other"
"""Instead of what clients make up: paths that no route has, methods that HTTP does not have."""


class HttpMetrics:
    """The bridge's counts, for its `Measured`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """In this registry."""
        self.running = 0
        self._requests = REQUESTS.counter(registry)
        self._seconds = SECONDS.histogram(registry)
        self._sent = SENT.counter(registry)
        self._upstream_requests = UPSTREAM_REQUESTS.counter(registry)
        self._upstream_seconds = UPSTREAM_SECONDS.histogram(registry)
        self._refused = REFUSED.counter(registry)
        RUNNING.gauge(registry, lambda: self.running)

    def refused(self, reason: str) -> None:
        """The server refused or cut a connection; the reason is one of its own few words."""
        self._refused.add((reason,))

    def ended(self, scope: Scope, status: int, *, sent_bytes: int, seconds: float) -> None:
        """A request ended; status 0: without a reply."""
        route = scope.get("route")
        path = route.path if isinstance(route, Route) else _OTHER
        method = scope["method"] if scope["method"] in _METHODS else _OTHER
        self._requests.add((path, method, str(status) if status else "none"))
        self._seconds.observe(seconds, (path, method))
        self._sent.add((path,), sent_bytes)

    def upstream_ended(self, upstream: str, call: str, status: int, seconds: float) -> None:
        """A request to an upstream ended; status 0: without a reply. Names are constants of the code."""
        self._upstream_requests.add((upstream, call, str(status) if status else "none"))
        self._upstream_seconds.observe(seconds, (upstream, call))


class Measured:
    """Outside everything else, so that it sees what was really sent."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        """Wraps the application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status, sent_bytes = time.monotonic(), 0, 0

        async def send_counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, sent_bytes
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))

        self._metrics.running += 1
        try:
            await self._app(scope, receive, send_counted)
        finally:
            self._metrics.running -= 1
            self._metrics.ended(scope, status, sent_bytes=sent_bytes, seconds=time.monotonic() - started_s)
