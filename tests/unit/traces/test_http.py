"""Spans of HTTP requests, around an application that does what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response

from http_bridge.errors import HttpError
from http_bridge.traces import Traced
from runtime.traces import names
from runtime.traces.current import current, current_trace_id
from tests.unit.traces.spans import CONTEXT, TRACE, Kept

TASK = "a" * 32


def _application(tracer: Kept, seen: list[object]) -> Callable[..., Any]:
    app = FastAPI()

    @app.get("/things/{task_id}")
    async def thing(task_id: str) -> Response:
        found = current()
        seen.append((None if found is None else found.traceparent, current_trace_id()))
        return PlainTextResponse(task_id)

    @app.get("/refused")
    async def refused() -> Response:
        return HttpError("queue_overloaded", "No.").response()

    @app.get("/api/health")
    async def health() -> Response:
        return PlainTextResponse("ok")

    @app.get("/broken")
    async def broken() -> Response:
        raise RuntimeError

    return Traced(app, tracer)


@pytest.fixture
def tracer() -> Kept:
    """Keeps what is written."""
    return Kept()


@pytest.fixture
def seen() -> list[object]:
    """What the application saw of the trace."""
    return []


@pytest.fixture
def http(tracer: Kept, seen: list[object]) -> httpx.AsyncClient:
    """Speaks to it."""
    transport = httpx.ASGITransport(_application(tracer, seen), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://bridge")


async def test_the_browser_s_trace_goes_on_when_it_sends_one(http: httpx.AsyncClient, tracer: Kept, seen: list[object]) -> None:
    headers = [("traceparent", CONTEXT.traceparent), ("tracestate", "vendor=opaque"), ("tracestate", "other=1")]
    await http.get(f"/things/{TASK}?secret=marked", headers=headers)
    [span] = tracer.spans
    assert (span.name, span.parent_id) == ("GET /things/{task_id}", CONTEXT.span_id)
    assert (span.context.trace_id, span.context.state) == (TRACE, "vendor=opaque,other=1")
    assert span.attributes == {
        names.HTTP_METHOD: "GET", names.HTTP_ROUTE: "/things/{task_id}", names.HTTP_STATUS: 200, names.TASK: TASK,
    }  # fmt: skip
    assert seen == [(span.context.traceparent, TRACE)]
    # Nothing of it is left for whoever comes next in this task.
    assert current() is None
    assert current_trace_id() == ""


@pytest.mark.parametrize("headers", [[], [("traceparent", "nonsense")], [("traceparent", CONTEXT.traceparent)] * 2])
async def test_a_trace_begins_when_the_browser_sends_none(http: httpx.AsyncClient, tracer: Kept, headers: list[tuple[str, str]]) -> None:
    await http.get(f"/things/{TASK}", headers=headers)
    [span] = tracer.spans
    assert span.parent_id == ""
    assert span.context.trace_id != TRACE


@pytest.mark.parametrize(
    ("method", "path", "name", "status", "is_failed"),
    [
        ("GET", "/refused", "GET /refused", 503, True),
        ("GET", "/broken", "GET /broken", 500, True),
        ("GET", "/marked/path", "GET", 404, False),
        ("POST", "/marked/path", "POST", 404, False),
        ("MARKED", "/marked/path", "HTTP", 404, False),
        ("GET", "/things/marked", "GET /things/{task_id}", 200, False),
    ],
)
async def test_a_span_says_what_was_answered_and_nothing_that_clients_make_up(
    http: httpx.AsyncClient, tracer: Kept, method: str, path: str, name: str, status: int, is_failed: bool
) -> None:
    await http.request(method, path, headers={"user-agent": "marked", "x-api-key": "marked"})
    [span] = tracer.spans
    assert (span.name, span.attributes[names.HTTP_STATUS], span.is_failed) == (name, status, is_failed)
    assert "marked" not in repr(span).lower()


async def test_the_envelope_s_code_is_told_when_a_request_is_refused(http: httpx.AsyncClient, tracer: Kept) -> None:
    await http.get("/refused")
    assert tracer.spans[0].attributes[names.CODE] == "queue_overloaded"


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/health"), ("OPTIONS", "/refused")])
async def test_nothing_is_written_when_nobody_s_work_is_asked_for(http: httpx.AsyncClient, tracer: Kept, method: str, path: str) -> None:
    await http.request(method, path)
    assert tracer.spans == []
