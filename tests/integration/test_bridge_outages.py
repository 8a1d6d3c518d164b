"""Every path while admission is away, slow or starting: an answer in bounded time that says when to come again, and no restart after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from http_bridge.event_feed import Pace
from runtime.errors import ErrorCode, ServiceError
from tests.harness.admission_services import until
from tests.harness.bridge import WITH_KEY, BridgeUnderTest, running_bridge
from tests.harness.event_reader import bridge_on

if TYPE_CHECKING:
    from fastapi import FastAPI

ADMIN_KEY = "admin-key-0123456"
HEADERS = {**WITH_KEY, "X-Admin-Key": ADMIN_KEY}
BODY = {"model": "anisora", "type": "video", "mode": "t2v", "prompt": "a lake at dawn"}
TASK_ID = "0" * 32
# These ask nobody.
OPEN = {("get", "/health"), ("get", "/models")}
# Once begun, it does not end: tests/integration/test_console.py sees it come back.
ENDLESS = {("get", "/console/events")}


def _paths(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of everything that is served and documented, but for what asks nobody."""
    found = [(method, path) for path, methods in app.openapi()["paths"].items() for method in methods]
    assert len(found) > 15
    return [one for one in found if one not in OPEN]


async def _ask(http: httpx.AsyncClient, method: str, path: str) -> httpx.Response:
    headers = dict(HEADERS)
    if path.endswith("/auth/session"):
        headers["Cookie"] = "gg_session=unknown"
    return await http.request(method, path.replace("{task_id}", TASK_ID).replace("{account_id}", "a"), headers=headers, json=BODY)


async def _all_unavailable(app: FastAPI, http: httpx.AsyncClient, within_s: float) -> None:
    app.state.bridge.event_streams.pace = Pace(reach_s=0.2)
    for method, path in _paths(app):
        for prefix in ("", "/api"):
            started_s = time.monotonic()
            reply = await _ask(http, method, prefix + path)
            took_s = time.monotonic() - started_s
            assert reply.status_code == 503, (method, path, reply.text)
            assert reply.json()["detail"]["code"] == "service_unavailable", (method, path)
            assert int(reply.headers["Retry-After"]) >= 1, (method, path)
            assert took_s < within_s, (method, path)


async def _answers_again(bridge: BridgeUnderTest) -> None:
    """Nothing is unavailable any more, without a restart of the bridge."""

    async def is_back() -> bool:
        return (await bridge.http.get(f"/status/{TASK_ID}", headers=WITH_KEY)).status_code == 404

    await until(is_back)
    for method, path in set(_paths(bridge.app)) - ENDLESS:
        reply = await _ask(bridge.http, method, path)
        assert reply.status_code != 503, (method, path, reply.text)


async def test_every_path_is_unavailable_while_admission_is_away_and_serves_when_it_is_back(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", admin_key=ADMIN_KEY) as bridge:
        await bridge.admission.stop()
        await _all_unavailable(bridge.app, bridge.http, within_s=2.0)
        assert (await bridge.http.get("/health")).status_code == 200
        await bridge.admission.restart()
        await _answers_again(bridge)


async def test_every_path_is_unavailable_while_admission_starts(tmp_path: Path) -> None:
    starting = ServiceError(
        code=ErrorCode.SERVICE_UNAVAILABLE, message="Admission is starting.", metadata={"admission": "starting"}, retry_after_s=1.0
    )
    async with running_bridge(tmp_path / "objects", admin_key=ADMIN_KEY) as bridge:
        bridge.admission.refusal = starting
        for method, path in _paths(bridge.app):
            if path.startswith("/admin") or (method, path) == ("get", "/auth/session"):
                # The double answers these always.
                continue
            reply = await _ask(bridge.http, method, path)
            assert (reply.status_code, 1 <= int(reply.headers["Retry-After"]) <= 5) == (503, True), (method, path)
        bridge.admission.refusal = None
        await _answers_again(bridge)


@asynccontextmanager
async def _stuck_admission() -> AsyncIterator[int]:
    """Takes connections and never says a word."""
    taken: list[asyncio.BaseTransport] = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.append(transport)

    server = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for transport in taken:
            transport.close()


async def test_every_path_is_unavailable_in_bounded_time_when_admission_takes_calls_and_answers_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("client", "access_client", "operator_client", "task_watch"):
        monkeypatch.setattr(f"http_bridge.{module}.CALL_TIMEOUT_S", 0.1)
    async with _stuck_admission() as port, bridge_on(port, tmp_path, admin_key=ADMIN_KEY) as bridge:
        await _all_unavailable(bridge.app, bridge.http, within_s=2.0)
