"""What the console is told and what it may say, over HTTP, on the real services of admission."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from warmlane.generation.v1 import generation_pb2

from admission.store.memory import MemoryStore
from http_bridge.console import tail
from http_bridge.event_feed import Pace
from tests.harness.admission_services import Stack, accepted_task, admission_stack, ready_lane, render, until
from tests.harness.bridge import KEY
from tests.harness.event_reader import EventReader, Received, ServedBridge, bridge_on

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])
ADMIN_KEY = "admin-key-0123456"
WITH_ADMIN_KEY = {"X-Admin-Key": ADMIN_KEY}
QUICK_PACE = Pace(heartbeat_s=15.0, first_pause_s=0.02, longest_pause_s=0.1)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with admission_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
async def bridge(stack: Stack, tmp_path: Path) -> AsyncIterator[ServedBridge]:
    async with quick_bridge(stack.port, tmp_path) as bridge:
        yield bridge


@asynccontextmanager
async def quick_bridge(port: int, folder: Path) -> AsyncIterator[ServedBridge]:
    """One that looks often."""
    async with bridge_on(port, folder, admin_key=ADMIN_KEY) as bridge:
        del bridge.http.headers["X-API-Key"]
        bridge.app.state.bridge.consoles.overview.look_s = 0.02
        bridge.app.state.bridge.consoles.streams.pace = QUICK_PACE
        yield bridge


class Console(EventReader):
    """One open console."""

    async def one(self, name: str, holds: Callable[[Received], bool] = lambda _: True) -> Received:
        """The first event of this name for which it holds."""
        while True:
            received = await self.next()
            assert received is not None, "the stream ended"
            if received.event == name and holds(received):
                return received

    async def events(self) -> list[dict[str, Any]]:
        """Those of the next message `events`."""
        found: list[dict[str, Any]] = (await self.one("events"))["events"]
        return found


@asynccontextmanager
async def console(bridge: ServedBridge, *, prefix: str = "", last_event_id: str = "", **headers: str) -> AsyncIterator[Console]:
    """A console that came with the admin key, unless headers say otherwise."""
    sent = {"Last-Event-ID": last_event_id, **({"Cookie": headers["cookie"]} if "cookie" in headers else WITH_ADMIN_KEY)}
    async with bridge.http.stream("GET", f"{prefix}/console/events", headers=sent) as reply:
        assert reply.status_code == 200, await reply.aread()
        yield Console(reply)


def names(events: list[dict[str, Any]]) -> list[str]:
    """Of events."""
    return [event["event_type"] for event in events]


async def audited(bridge: ServedBridge) -> list[tuple[str, str, bool]]:
    """Action, details and success of every call so far, newest first."""
    logs = (await bridge.http.get("/admin/logs", headers=WITH_ADMIN_KEY)).json()["logs"]
    return [(entry["action"], entry["details"], entry["success"]) for entry in logs[1:]]


@PREFIXES
async def test_state_and_newest_events_are_told_at_once_when_a_console_opens(stack: Stack, bridge: ServedBridge, prefix: str) -> None:
    await ready_lane(stack)
    task = await accepted_task(stack)
    async with console(bridge, prefix=prefix) as watching:
        first = await watching.one("events")
        assert first["reset"] is True
        assert names(first["events"])[:2] == ["admission_started", "lane_attached"]
        assert names(first["events"])[-2:] == ["accepted", "attempt_started"]
        assert [event["sequence"] for event in first["events"]] == sorted({event["sequence"] for event in first["events"]})
    async with console(bridge, prefix=prefix) as watching:
        state = await watching.one("snapshot", lambda one: bool(one["tasks"]))
    assert state.retry in ("3000", "")
    assert [lane["lane"] for lane in state["lanes"]] == ["lane-anisora"]
    assert (state["controller_epoch"], state["store"]["is_failing"]) == (1, False)
    (shown,) = state["tasks"]
    assert (shown["task_id"], shown["status"], shown["lane"], shown["attempt"]) == (task.task_id, "processing", "lane-anisora", 1)
    assert {problem["code"] for problem in state["problems"]} == {"admission_restarted", "fallback", "model_not_served"}
    assert "a lake" not in str(state.data), "what was asked for is nobody's business here"


async def test_every_event_and_change_is_told_while_it_happens(stack: Stack, bridge: ServedBridge) -> None:
    async with console(bridge) as watching:
        await watching.events()
        lane = await ready_lane(stack)
        assert names(await watching.events())[0] == "lane_attached"
        task = await accepted_task(stack)
        lease = (await lane.wish(lambda wish: wish.HasField("lease"))).lease
        record = generation_pb2.MemoryRecord(device="cuda:0", allocated_bytes=7, peak_allocated_bytes=9, placement="resident")
        record.out_of_memory.add(phase="decode", placement="resident_all", peak_bytes=8)
        await render(stack, lane, lease, b"video", record)
        told: list[dict[str, Any]] = []
        while "ended" not in names(told):
            told += await watching.events()
        (recorded,) = [event for event in told if event["event_type"] == "memory_record"]
        assert recorded["task_id"] == task.task_id
        assert recorded["memory"]["out_of_memory"] == [
            {"phase": "decode", "placement": "resident_all", "peak_bytes": 8, "budget_bytes": None}
        ]
    async with console(bridge) as watching:
        state = await watching.one("snapshot", lambda one: one["tasks"][0]["status"] == "done")
    (shown,) = state["lanes"]
    assert (shown["memory"]["allocated_bytes"], shown["memory"]["driver_free_bytes"]) == (7, None)
    assert "out_of_memory" in [problem["code"] for problem in state["problems"]]


async def test_nothing_is_missed_or_told_twice_when_a_console_comes_back(stack: Stack, bridge: ServedBridge) -> None:
    async with console(bridge) as watching:
        first = await watching.one("events")
    await ready_lane(stack)
    async with console(bridge, last_event_id=first.id) as watching:
        missed = await watching.one("events")
    assert missed["reset"] is False
    assert names(missed["events"])[0] == "lane_attached"
    assert min(event["sequence"] for event in missed["events"]) > max(event["sequence"] for event in first["events"])


@pytest.mark.parametrize("last_event_id", ["1", "999999999"])
async def test_console_begins_anew_when_it_missed_too_much_or_knows_another_log(
    stack: Stack, bridge: ServedBridge, last_event_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "_MOST_MISSED", 1)
    await ready_lane(stack)
    async with console(bridge, last_event_id=last_event_id) as watching:
        assert (await watching.one("events"))["reset"] is True


async def test_console_stays_and_goes_on_when_admission_restarts(tmp_path: Path) -> None:
    store = MemoryStore()
    async with admission_stack(tmp_path, store=store) as first:
        port = first.port
        bridging = quick_bridge(port, tmp_path)
        bridge = await bridging.__aenter__()
        watching_of = console(bridge)
        watching = await watching_of.__aenter__()
        assert (await watching.one("snapshot"))["controller_epoch"] == 1
        await watching.events()
    try:
        away = await watching.one("away")
        assert away["reason"]
        async with admission_stack(tmp_path, store=store, port=port):
            both = {(await _either(watching)).event for _ in range(2)}
            assert both == {"snapshot", "events"}
    finally:
        await watching_of.__aexit__(None, None, None)
        await bridging.__aexit__(None, None, None)


async def _either(watching: Console) -> Received:
    """The next snapshot of the second admission, or its first events."""
    while True:
        received = await watching.next()
        assert received is not None
        if received.event == "snapshot" and received["controller_epoch"] == 2:
            return received
        if received.event == "events":
            assert names(received["events"])[0] == "admission_started"
            assert received["reset"] is False
            return received


async def test_one_look_serves_all_consoles_and_none_is_taken_when_nobody_watches(stack: Stack, bridge: ServedBridge) -> None:
    overview = bridge.app.state.bridge.consoles.overview
    async with console(bridge) as one, console(bridge) as other:
        await one.one("snapshot")
        await other.one("snapshot")
        assert [task.get_name() for task in asyncio.all_tasks()].count("console-look") == 1
    await until(lambda: _is(overview.state is None and not overview._watchers))
    assert "console-look" not in {task.get_name() for task in asyncio.all_tasks()}
    # The place of a stream is given back when its reply has ended, a moment after its watcher is gone.
    await until(lambda: _is(len(bridge.app.state.bridge.consoles.streams) == 0))


async def _is(holds: bool) -> bool:
    return holds


async def test_nobody_is_told_anything_without_a_credential_and_the_call_is_audited(bridge: ServedBridge) -> None:
    paths = [
        ("GET", "/console/events", "admin_console"),
        ("POST", "/admin/lanes/lane-anisora/drain", "admin_drain"),
        ("POST", "/admin/models/anisora/fallback", "admin_fallback"),
    ]
    credentials: list[tuple[dict[str, str], int, str]] = [
        ({}, 401, "admin_session_missing"),
        ({"X-Admin-Key": "wrong-key-0123456"}, 403, "admin_key_invalid"),
        ({"Cookie": "gg_admin_session=unknown"}, 401, "admin_session_invalid"),
        ({"X-API-Key": KEY}, 401, "admin_session_missing"),
    ]
    for prefix, (method, path, _), (headers, status, code) in itertools.product(("", "/api"), paths, credentials):
        # What else is wrong is not told to strangers.
        reply = await bridge.http.request(method, prefix + path, headers={**headers, "Last-Event-ID": "no number"}, content=b"no json")
        assert (reply.status_code, reply.json()["detail"]["code"]) == (status, code), path

    async def all_are_audited() -> bool:
        # Refused calls that come fast are written together, a little later.
        refused = [(action, details) for action, details, success in await audited(bridge) if not success]
        assert all("lane-anisora" not in details for _, details in refused)
        return {action for action, _ in refused} == {action for _, _, action in paths}

    await until(all_are_audited)


@PREFIXES
async def test_lane_is_drained_and_resumed_by_an_admin(stack: Stack, bridge: ServedBridge, prefix: str) -> None:
    await ready_lane(stack)
    url = f"{prefix}/admin/lanes/lane-anisora/drain"
    drained = await bridge.http.post(url, headers=WITH_ADMIN_KEY, json={"drained": True})
    assert (drained.status_code, drained.json()) == (200, {"lane": "lane-anisora", "is_drained": True, "is_busy": False})
    assert (await stack.snapshot()).lanes[0].drained is True
    resumed = await bridge.http.post(url, headers=WITH_ADMIN_KEY, json={"drained": False})
    assert resumed.json()["is_drained"] is False
    assert (await stack.snapshot()).lanes[0].drained is False
    details = "POST /admin/lanes/{lane}/drain, lane-anisora"
    assert (await audited(bridge))[:2] == [("admin_resume", details, True), ("admin_drain", details, True)]


@PREFIXES
async def test_model_is_sent_to_the_pool_and_back_by_an_admin(stack: Stack, bridge: ServedBridge, prefix: str) -> None:
    await ready_lane(stack)
    url = f"{prefix}/admin/models/anisora/fallback"
    sent = await bridge.http.post(url, headers=WITH_ADMIN_KEY, json={"enabled": True})
    assert (sent.status_code, sent.json()) == (200, {"model": "anisora", "is_manual_fallback": True, "fallback_reason": "manual"})
    back = await bridge.http.post(url, headers=WITH_ADMIN_KEY, json={"enabled": False})
    assert back.json() == {"model": "anisora", "is_manual_fallback": False, "fallback_reason": None}
    assert [action for action, _, _ in (await audited(bridge))[:2]] == ["admin_fallback_off", "admin_fallback_on"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "entry"),
    [
        ("lanes/nowhere/drain", b'{"drained":true}', 404, "lane_not_found", ("admin_drain", "POST /admin/lanes/{lane}/drain", True)),
        (
            "models/pony/fallback",
            b'{"enabled":true}',
            422,
            "validation_error",
            ("admin_fallback_on", "POST /admin/models/{model}/fallback", True),
        ),
        ("lanes/lane-anisora/drain", b"", 422, "validation_error", None),
        ("lanes/lane-anisora/drain", b'{"drained":1}', 422, "validation_error", None),
        ("lanes/lane-anisora/drain", b'{"drained":true,"more":1}', 422, "validation_error", None),
        ("lanes/lane-anisora/drain", b"x" * 2000, 413, "payload_too_large", None),
        (
            "models/anisora/fallback",
            b"{}",
            422,
            "validation_error",
            ("admin_fallback", "POST /admin/models/{model}/fallback, anisora", True),
        ),
    ],
)
async def test_order_that_makes_no_sense_is_refused_changes_nothing_and_is_audited(
    stack: Stack, bridge: ServedBridge, path: str, body: bytes, status: int, code: str, entry: tuple[str, str, bool] | None
) -> None:
    await ready_lane(stack)
    reply = await bridge.http.post(f"/admin/{path}", headers=WITH_ADMIN_KEY, content=body)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (status, code)
    assert (await audited(bridge))[0] == (entry or ("admin_drain", "POST /admin/lanes/{lane}/drain, lane-anisora", True))
    snapshot = await stack.snapshot()
    assert not snapshot.lanes[0].drained
    assert not any(queue.manual_fallback for queue in snapshot.queues)


async def test_page_of_another_origin_gives_no_order_with_the_cookie_of_an_admin(stack: Stack, bridge: ServedBridge) -> None:
    await ready_lane(stack)
    cookie = await _session(bridge)
    foreign = {"Cookie": cookie, "Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    url = "/admin/lanes/lane-anisora/drain"
    refused = await bridge.http.post(url, headers=foreign, json={"drained": True})
    assert refused.status_code == 403
    assert not (await stack.snapshot()).lanes[0].drained
    own = await bridge.http.post(url, headers={"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}, json={"drained": True})
    assert own.status_code == 200


async def _session(bridge: ServedBridge) -> str:
    opened = await bridge.http.post("/admin/session", headers=WITH_ADMIN_KEY)
    bridge.http.cookies.clear()
    return str(opened.headers["Set-Cookie"].partition(";")[0])


async def test_consoles_of_a_session_end_when_it_is_ended_and_others_go_on(bridge: ServedBridge) -> None:
    cookie = await _session(bridge)
    async with console(bridge, cookie=cookie) as own, console(bridge) as other:
        await own.one("snapshot")
        await other.one("snapshot")
        ended = await bridge.http.delete("/admin/session", headers={"Cookie": cookie})
        assert ended.status_code == 204
        while await own.next() is not None:
            pass
        await bridge.http.post("/admin/models/anisora/fallback", headers=WITH_ADMIN_KEY, json={"enabled": True})
        await other.one("events", lambda one: "fallback_set" in names(one["events"]))


async def test_console_ends_after_its_time_and_is_audited_again_when_it_comes_back(bridge: ServedBridge) -> None:
    bridge.app.state.bridge.consoles.life_s = 0.3
    for _ in range(2):
        async with console(bridge) as watching:
            while await watching.next() is not None:
                pass
    assert (await audited(bridge))[:2] == [("admin_console", "GET /console/events", True)] * 2


async def test_consoles_end_when_the_bridge_stops(stack: Stack, tmp_path: Path) -> None:
    async with quick_bridge(stack.port, tmp_path) as bridge, console(bridge) as watching:
        await watching.one("snapshot")
        bridge.stop()
        while await watching.next() is not None:
            pass
        await asyncio.wait_for(bridge.serving, 5)


async def test_console_opens_when_users_have_every_event_stream(stack: Stack, tmp_path: Path) -> None:
    await ready_lane(stack)
    task = await accepted_task(stack)
    async with bridge_on(stack.port, tmp_path, admin_key=ADMIN_KEY, max_event_streams=1) as bridge, bridge.events(task.task_id) as reader:
        await reader.state()
        assert (await bridge.http.get(f"/events/{task.task_id}")).status_code == 503
        async with console(bridge) as watching:
            await watching.one("snapshot")


async def test_documentation_has_what_the_events_hold(bridge: ServedBridge) -> None:
    schema = (await bridge.http.get("/openapi.json")).json()
    told = schema["paths"]["/console/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]["x-events"]
    assert set(told) == {"snapshot", "events", "away"}
    components = schema["components"]["schemas"]
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema)))
    assert named <= set(components)
    assert {"problems", "tasks", "lanes"} <= set(components["ConsoleSnapshot"]["properties"])
