"""Two bridges before one real admission: what one lets in, ends or counts holds at the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.harness.admission_services import Stack, admission_stack, ready_lane
from tests.harness.bridge import WITH_KEY, bridge_before

ADMIN_KEY = "admin-key-0123456"
WITH_ADMIN_KEY = {"X-Admin-Key": ADMIN_KEY}
BODY = {"model": "anisora", "type": "video", "mode": "t2v", "prompt": "a lake", "steps": 5}
HOUR_S = 3600.0


@asynccontextmanager
async def _two_bridges(folder: Path) -> AsyncIterator[tuple[Stack, httpx.AsyncClient, httpx.AsyncClient]]:
    async with admission_stack(folder) as stack:
        address = f"127.0.0.1:{stack.port}"
        limits: dict[str, Any] = {"new_sessions_per_minute": 3, "generations_per_minute": 3, "bad_keys_per_minute": 3}
        async with (
            bridge_before(address, stack.objects, admin_key=ADMIN_KEY, **limits) as one,
            bridge_before(address, stack.objects, admin_key=ADMIN_KEY, **limits) as two,
        ):
            yield stack, one, two


def _code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["detail"]["code"]


async def _admin_cookie(bridge: httpx.AsyncClient) -> dict[str, str]:
    opened = await bridge.post("/admin/session", headers=WITH_ADMIN_KEY)
    bridge.cookies.clear()
    return {"Cookie": opened.headers["Set-Cookie"].partition(";")[0]}


async def test_admin_session_is_renewed_and_ended_at_any_bridge(tmp_path: Path) -> None:
    async with _two_bridges(tmp_path) as (stack, one, two):
        cookie = await _admin_cookie(one)
        for bridge in (two, one, two):
            # 33 h in all, and never 12 without use.
            stack.clock.advance(11 * HOUR_S)
            assert (await bridge.get("/admin/session", headers=cookie)).status_code == 200
        assert (await two.delete("/admin/session", headers=cookie)).status_code == 204
        for bridge in (one, two):
            assert _code(await bridge.get("/admin/health", headers=cookie)) == (401, "admin_session_invalid")
        idle = await _admin_cookie(one)
        stack.clock.advance(12 * HOUR_S)
        assert _code(await two.get("/admin/session", headers=idle)) == (401, "admin_session_expired")


async def test_audit_log_has_the_calls_of_every_bridge_refused_ones_too(tmp_path: Path) -> None:
    async with _two_bridges(tmp_path) as (_, one, two):
        await one.get("/admin/health", headers=WITH_ADMIN_KEY)
        await two.get("/api/admin/accounts", headers={"X-Admin-Key": "wrong-key-0123456"})
        logs = (await one.get("/admin/logs", headers=WITH_ADMIN_KEY)).json()["logs"]
    assert [(entry["action"], entry["success"], entry["ip"]) for entry in logs] == [
        ("admin_logs", True, "127.0.0.1"),
        ("admin_accounts", False, "127.0.0.1"),
        ("admin_health", True, "127.0.0.1"),
    ]
    assert logs[2]["details"] == "GET /admin/health"


async def test_rates_are_counted_over_all_bridges_until_a_minute_has_passed(tmp_path: Path) -> None:
    async with _two_bridges(tmp_path) as (stack, one, two):
        sessions = [await bridge.post("/auth/session") for bridge in (one, two, one, two)]
        assert [reply.status_code for reply in sessions] == [201, 201, 201, 429]
        assert 1 <= int(sessions[3].headers["Retry-After"]) <= 60
        for bridge in (one, two):
            bridge.cookies.clear()
        wrong = [await bridge.get("/models", headers={"X-API-Key": "wrong"}) for bridge in (one, two, one, two)]
        assert [reply.status_code for reply in wrong] == [403, 403, 403, 429]
        cookie = {"Cookie": sessions[0].headers["Set-Cookie"].partition(";")[0]}
        # What is refused for its fields was a try all the same.
        made = [await bridge.post("/generate", headers=cookie, json=BODY) for bridge in (one, two, one, two)]
        assert [reply.status_code for reply in made] == [422, 422, 422, 429]
        admin = [await bridge.get("/admin/logs", headers={"X-Admin-Key": "wrong-key-0123456"}) for bridge in (one, two, one, two)]
        assert [_code(reply)[1] for reply in admin] == ["admin_key_invalid"] * 3 + ["admin_rate_limited"]
        assert _code(await one.get("/admin/logs", headers=WITH_ADMIN_KEY)) == (429, "admin_rate_limited")
        assert (await one.get("/models", headers=WITH_KEY)).status_code == 200
        stack.clock.advance(60)
        assert (await two.post("/auth/session")).status_code == 201
        assert (await one.get("/admin/logs", headers=WITH_ADMIN_KEY)).status_code == 200


async def test_health_and_events_tell_of_a_lane_when_it_is_ready(tmp_path: Path) -> None:
    async with _two_bridges(tmp_path) as (stack, one, _):
        before = (await one.get("/admin/health", headers=WITH_ADMIN_KEY)).json()
        await ready_lane(stack)
        health = (await one.get("/admin/health", headers=WITH_ADMIN_KEY)).json()
        events = (await one.get("/admin/accounts", headers=WITH_ADMIN_KEY)).json()["events"]
    assert (before["ready_accounts"], health["ready_accounts"], health["ok"]) == (0, 1, False)
    (lane,) = health["diagnostics"]["lanes"]
    assert (lane["lane"], lane["model"], lane["mode"], lane["availability"], lane["warm"]) == (
        "lane-anisora",
        "anisora",
        "dedicated",
        "ready",
        True,
    )
    assert [queue["is_served"] for queue in health["diagnostics"]["queues"]] == [True, False]
    assert {"lane_attached", "lane_ready"} <= {event["event_type"] for event in events}
