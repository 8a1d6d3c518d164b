"""Writes a span of every request, in the browser's trace when it sends one."""

from __future__ import annotations

import re
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.routing import Route

from runtime.traces import names
from runtime.traces.context import parse
from runtime.traces.current import OpenSpan, entered
from runtime.traces.tracer import Kind, Span

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from runtime.traces.context import TraceContext
    from runtime.traces.tracer import Tracer, Value

_METHODS = frozenset({"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"})
# Whoever asks whether the process lives, and browsers that ask whether they may ask, say nothing of anybody's work.
_NOT_TRACED = frozenset({"OPTIONS"})
_PROBES = ("/health", "/metrics")
_TASK_ID = re.compile(r"[0-9a-f]{32}")
_FAULT = 500


class Traced:
    """Outside all that answers, so that it sees what was really sent. Only where traces are on."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        """Wraps the application."""
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] in _NOT_TRACED or scope["path"].endswith(_PROBES):
            await self._app(scope, receive, send)
            return
        parent = _parent(scope)
        opened, began_ns, status = OpenSpan(self._tracer.begin(parent), {}), time.time_ns(), 0

        async def send_noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]

        with entered(opened):
            try:
                await self._app(scope, receive, send_noted)
            finally:
                self._write(opened, "" if parent is None else parent.span_id, scope, began_ns, status)

    def _write(self, opened: OpenSpan, parent_id: str, scope: Scope, began_ns: int, status: int) -> None:
        if not opened.context.is_sampled:
            return
        method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        route = scope.get("route")
        path = route.path if isinstance(route, Route) else ""
        self._tracer.write(
            Span(
                name=f"{method} {path}" if path else method,
                context=opened.context,
                parent_id=parent_id,
                began_ns=began_ns,
                ended_ns=time.time_ns(),
                attributes=_attributes(method, path, scope, status) | opened.attributes,
                kind=Kind.SERVER,
                is_failed=status >= _FAULT or not status,
            )
        )


def _attributes(method: str, path: str, scope: Scope, status: int) -> dict[str, Value]:
    """Of the path only the route's form: what stands in it may be anything that a client made up."""
    attributes: dict[str, Value] = {names.HTTP_METHOD: method}
    if path:
        attributes[names.HTTP_ROUTE] = path
    if status:
        attributes[names.HTTP_STATUS] = status
    task_id = scope.get("path_params", {}).get("task_id")
    if isinstance(task_id, str) and _TASK_ID.fullmatch(task_id):
        attributes[names.TASK] = task_id
    return attributes


def _parent(scope: Scope) -> TraceContext | None:
    headers = Headers(scope=scope)
    parents = headers.getlist("traceparent")
    # Two parents are none, says the standard; several states are one list.
    return parse(parents[0], ",".join(headers.getlist("tracestate"))) if len(parents) == 1 else None
