"""The served OpenAPI description is true: schemathesis finds no answer outside of it, and no 5xx that the contract does not name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from tests.harness.bridge import WITH_KEY
from tests.harness.contract_bridge import ADMIN_KEY, ContractBridge, contract_bridge
from tests.harness.threaded_http import threaded_http

# schemathesis takes a second to import; only what runs it pays for that.
_EVERY_CHECK = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
    "object_level_authorization",
}
_TICK_S = 0.25
_PATIENCE_S = 30.0
_HEADERS = {**WITH_KEY, "X-Admin-Key": ADMIN_KEY}


def _explore(url: str, *, examples: int, least: int, without: str | None = None) -> None:
    from tests.contract_http.described import explore

    findings = explore(url, _HEADERS, examples=examples, without=without)
    told = "\n\n".join(f"{' / '.join(key)}\n{text}" for key, text in findings.failures.items())
    assert not findings.failures, f"{len(findings.failures)} kinds of failures in {findings.total} cases\n{told}"
    assert findings.errors == []
    # A run in which a check judged nothing proves nothing.
    assert set(findings.checks) >= _EVERY_CHECK
    assert findings.total >= least, findings.cases
    assert all(count > 0 for count in findings.cases.values())


@contextmanager
def operated(bridge: ContractBridge) -> Iterator[None]:
    """As in production, time passes for admission, whose clock stands still in tests, and whoever drains a lane or sets a fallback takes it
    back: else most of the later cases would be held, and each of those is answered after its 30 s only."""
    ended, engine = threading.Event(), bridge.admission.engine

    async def take_back() -> None:
        seen = engine.snapshot()
        for lane in seen.lanes:
            if lane.is_drained:
                await engine.drain_lane(lane.spec.lane_id, drained=False)
        for queue in seen.queues:
            if queue.is_fallback_manual:
                await engine.set_fallback(queue.model, enabled=False)

    def operate() -> None:
        while not ended.wait(_TICK_S):
            bridge.advance(_TICK_S)
            asyncio.run_coroutine_threadsafe(take_back(), bridge.loop).result(_PATIENCE_S)

    with ThreadPoolExecutor(1, thread_name_prefix="operator") as threads:
        operating = threads.submit(operate)
        try:
            yield
        finally:
            ended.set()
        # What went wrong there went wrong here: cases would have been answered by nobody.
        operating.result(2 * _PATIENCE_S)


@pytest.mark.filterwarnings("default")
def test_no_answer_is_outside_the_description(bridge: ContractBridge) -> None:
    # Half of all cases are of the body of /generate; the long form has them on /generate_direct too.
    _explore(bridge.url, examples=3, least=400, without="/generate_direct")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("prefix", "examples", "least"), [("", 700, 10_000), ("/api", 100, 2_000)])
def test_no_answer_is_outside_the_description_in_ten_thousand_cases(tmp_path: Path, prefix: str, examples: int, least: int) -> None:
    with contract_bridge(tmp_path) as bridge, operated(bridge):
        _explore(bridge.url + prefix, examples=examples, least=least)


class _Told(BaseModel):
    number: int


def _lying_app() -> FastAPI:
    """Four paths, each with another lie."""
    app = FastAPI()

    @app.get("/status")
    def undescribed_status() -> Response:
        return Response(status_code=418, content="{}", media_type="application/json")

    @app.get("/body", response_model=_Told)
    def other_body() -> JSONResponse:
        return JSONResponse({"number": "seven"})

    @app.get("/type", response_model=_Told)
    def other_type() -> Response:
        return Response("7", media_type="text/plain")

    @app.get("/broken", response_model=_Told, responses={500: {}, 503: {}})
    def broken(which: bool) -> JSONResponse:
        return JSONResponse({"detail": {"code": "a code that no page names"}}, status_code=503 if which else 500)

    return app


@pytest.mark.filterwarnings("default")
def test_lies_are_found_when_a_server_tells_them() -> None:
    from tests.contract_http.described import explore

    with threaded_http(_lying_app()) as url:
        findings = explore(url, {}, examples=3)
    found = {(check, operation) for check, operation, _title in findings.failures}
    assert found >= {
        ("status_code_conformance", "GET /status"),
        ("response_schema_conformance", "GET /body"),
        ("content_type_conformance", "GET /type"),
        ("not_a_server_error", "GET /broken"),
        ("named_server_error", "GET /broken"),
    }
