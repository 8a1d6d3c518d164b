"""What the bridge counts of its requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from obstore.store import LocalStore

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.metrics import ALL, HttpMetrics, Measured
from runtime.metrics.registry import Registry
from tests.harness.bridge import QUICK, WITH_KEY, bridge_settings
from tests.harness.metrics import page_of

TASK_ID = "0123456789abcdef" * 2


@pytest.fixture
def registry() -> Registry:
    return Registry("http-bridge")


@pytest.fixture
async def http(registry: Registry, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A counted bridge; nobody stands behind it."""
    settings = bridge_settings("127.0.0.1:1")
    app = create_app(
        settings, AdmissionClient(settings.admission_address, patience=QUICK), LocalStore(tmp_path, mkdir=True), HttpMetrics(registry)
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bridge") as client,
    ):
        yield client


async def test_both_prefixes_count_as_one_route_when_they_are_called(registry: Registry, http: httpx.AsyncClient) -> None:
    replies = [await http.get(f"{prefix}/status/{TASK_ID}", headers=WITH_KEY) for prefix in ("", "/api")]
    page = page_of(registry)
    assert {reply.status_code for reply in replies} == {503}
    assert page.value("http_requests_total", route="/status/{task_id}", method="GET", code="503") == 2
    assert page.value("http_request_seconds_count", route="/status/{task_id}", method="GET") == 2
    assert page.value("http_sent_bytes_total", route="/status/{task_id}") == sum(len(reply.content) for reply in replies)
    assert TASK_ID not in page.text


async def test_preflights_and_refusals_are_counted_when_no_route_answers_them(registry: Registry, http: httpx.AsyncClient) -> None:
    asked = {"Origin": "http://localhost:5173", "Access-Control-Request-Method": "POST"}
    assert (await http.options("/generate", headers=asked)).status_code == 200
    assert (await http.get(f"/status/{TASK_ID}")).status_code == 401
    page = page_of(registry)
    assert page.value("http_requests_total", route="other", method="OPTIONS", code="200") == 1
    assert page.value("http_requests_total", route="/status/{task_id}", method="GET", code="401") == 1


async def test_no_series_is_made_when_clients_make_up_paths_and_methods(registry: Registry, http: httpx.AsyncClient) -> None:
    for number in range(3):
        await http.get(f"/made-up-{number}")
        await http.request(f"MADEUP{number}", "/health")
    page = page_of(registry)
    assert page.value("http_requests_total", route="other", method="GET", code="404") == 3
    assert page.total("http_requests_total", method="other") == 3
    assert "made-up" not in page.text.lower()
    assert "madeup" not in page.text.lower()


async def test_request_is_counted_without_a_code_when_its_client_leaves_before_there_was_one(registry: Registry) -> None:
    begun = asyncio.Event()

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def nothing(*_: Any) -> Any:
        return None

    serving = asyncio.create_task(Measured(hang, HttpMetrics(registry))({"type": "http", "method": "POST"}, nothing, nothing))
    await begun.wait()
    assert page_of(registry).value("http_running_requests") == 1
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    page = page_of(registry)
    assert page.value("http_running_requests") == 0
    assert page.value("http_requests_total", route="other", method="POST", code="none") == 1


def test_every_metric_of_the_catalogue_is_there_when_nothing_was_asked(registry: Registry) -> None:
    HttpMetrics(registry)
    assert {one.name.removesuffix("_total") for one in ALL} <= set(page_of(registry).families)
