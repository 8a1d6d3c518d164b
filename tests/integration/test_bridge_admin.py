"""The admin paths against a running admission double: sessions, keys, verdicts, health, accounts, the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from warmlane.admission.v1 import access_service_pb2 as access
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1.task_pb2 import LaneMode, TaskEvent

from http_bridge.diagnostics import ADMISSION_EVENTS, LANE_EVENTS, MODEL_EVENTS
from runtime.errors import ErrorCode, ServiceError
from tests.harness.access_double import ACTIVE_AT, RETRY_AFTER_S, stamp
from tests.harness.bridge import KEY, WITH_KEY, BridgeUnderTest, running_bridge

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])
ADMIN_KEY = "admin-key-0123456"
WITH_ADMIN_KEY = {"X-Admin-Key": ADMIN_KEY}
PATHS = [
    ("POST", "/admin/session", "admin_session_create"),
    ("GET", "/admin/session", "admin_session_get"),
    ("DELETE", "/admin/session", "admin_session_delete"),
    ("GET", "/admin/health", "admin_health"),
    ("GET", "/admin/accounts", "admin_accounts"),
    ("GET", "/admin/logs", "admin_logs"),
]


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects", admin_key=ADMIN_KEY) as bridge:
        yield bridge


@PREFIXES
async def test_session_is_opened_used_and_ended_when_the_key_is_right(bridge: BridgeUnderTest, prefix: str) -> None:
    opened = await bridge.http.post(f"{prefix}/admin/session", headers=WITH_ADMIN_KEY)
    assert (opened.status_code, opened.content) == (204, b"")
    cookie, *attributes = opened.headers["Set-Cookie"].split("; ")
    assert cookie == "gg_admin_session=admin-token-0"
    assert {attribute.lower() for attribute in attributes} == {"httponly", "path=/", "secure", "samesite=none"}
    bridge.http.cookies.clear()

    shown = await bridge.http.get(f"{prefix}/admin/session", headers={"Cookie": cookie})
    assert (shown.status_code, shown.json()) == (
        200,
        {"active": True, "idle_timeout_seconds": 43200, "last_activity_at": "2026-01-01T12:30:00Z"},
    )
    call = bridge.admission.admin_calls[-1]
    assert (call.idle_timeout.seconds, call.bad_keys_per_minute, call.token) == (43200, 10, "admin-token-0")

    ended = await bridge.http.delete(f"{prefix}/admin/session", headers={"Cookie": cookie})
    assert ended.status_code == 204
    gone = ended.headers["Set-Cookie"].lower()
    assert gone.startswith('gg_admin_session=""; ')
    assert {"max-age=0", "httponly", "path=/", "secure", "samesite=none"} < set(gone.split("; "))
    for method, path, _action in PATHS[1:]:
        reply = await bridge.http.request(method, prefix + path, headers={"Cookie": cookie})
        assert (reply.status_code, reply.json()["detail"]["code"]) == (401, "admin_session_invalid"), path


async def test_cookie_is_sent_over_http_when_the_settings_say_so(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", admin_key=ADMIN_KEY, cookie_secure=False) as bridge:
        opened = await bridge.http.post("/admin/session", headers=WITH_ADMIN_KEY)
    attributes = {part.strip().lower() for part in opened.headers["Set-Cookie"].split(";")[1:]}
    assert attributes == {"httponly", "path=/", "samesite=lax"}


@PREFIXES
async def test_every_path_is_open_to_the_key_when_no_session_comes(bridge: BridgeUnderTest, prefix: str) -> None:
    for method, path, _action in PATHS:
        reply = await bridge.http.request(method, prefix + path, headers=WITH_ADMIN_KEY)
        assert reply.status_code == (204 if method in ("POST", "DELETE") else 200), path


@PREFIXES
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "admin_session_missing"),
        ({"X-Admin-Key": ""}, 401, "admin_session_missing"),
        ({"X-Admin-Key": "wrong-key-0123456"}, 403, "admin_key_invalid"),
        ({"X-Admin-Key": ADMIN_KEY + "x"}, 403, "admin_key_invalid"),
        ({"Cookie": "gg_admin_session=unknown"}, 401, "admin_session_invalid"),
        ({"Cookie": f"gg_admin_session={'x' * 5000}"}, 401, "admin_session_invalid"),
        ({"Cookie": "gg_admin_session=old"}, 401, "admin_session_expired"),
        # The key decides where both come.
        ({"X-Admin-Key": "wrong-key-0123456", "Cookie": "gg_admin_session=good"}, 403, "admin_key_invalid"),
        # Other credentials are no admin's.
        (WITH_KEY, 401, "admin_session_missing"),
        ({"X-Admin-Key": KEY}, 403, "admin_key_invalid"),
        ({"X-API-Key": ADMIN_KEY}, 401, "admin_session_missing"),
        ({"Cookie": "gg_session=good"}, 401, "admin_session_missing"),
    ],
)
async def test_every_path_says_what_is_wrong_and_is_audited_when_nobody_is_let_in(
    bridge: BridgeUnderTest, prefix: str, headers: dict[str, str], status: int, code: str
) -> None:
    bridge.admission.admin_sessions.update({"good": access.ADMIN_VERDICT_GRANTED, "old": access.ADMIN_VERDICT_SESSION_EXPIRED})
    for method, path, action in PATHS:
        bridge.admission.used.clear()
        if action == "admin_session_create" and "X-Admin-Key" not in headers:
            continue
        reply = await bridge.http.request(method, prefix + path, headers=headers)
        assert (reply.status_code, reply.json()["detail"]["code"]) == (status, code), path
        entry = bridge.admission.audit[0]
        assert (entry.action, entry.success, entry.details) == (action, False, f"{method} {path}")


async def test_session_is_not_opened_when_another_session_is_sent_for_a_key(bridge: BridgeUnderTest) -> None:
    bridge.admission.admin_sessions["good"] = access.ADMIN_VERDICT_GRANTED
    reply = await bridge.http.post("/admin/session", headers={"Cookie": "gg_admin_session=good"})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (401, "admin_session_missing")
    assert bridge.admission.audit[0].success is False


@pytest.mark.parametrize("key", [None, "", "fifteen-chars-x"])
async def test_nobody_is_let_in_when_the_server_has_no_real_admin_key(tmp_path: Path, key: str | None) -> None:
    async with running_bridge(tmp_path / "objects", admin_key=key) as bridge:
        bridge.admission.admin_sessions["good"] = access.ADMIN_VERDICT_GRANTED
        for headers in ({}, {"X-Admin-Key": key or ""}, {"Cookie": "gg_admin_session=good"}):
            for method, path, action in PATHS:
                reply = await bridge.http.request(method, path, headers=headers)
                assert (reply.status_code, reply.json()["detail"]["code"]) == (403, "admin_misconfigured"), path
                assert (bridge.admission.audit[0].action, bridge.admission.audit[0].success) == (action, False)


async def test_admin_key_opens_nothing_else_when_it_is_sent_in_every_place(bridge: BridgeUnderTest) -> None:
    headers = {"X-API-Key": ADMIN_KEY, "X-Admin-Key": ADMIN_KEY, "Cookie": f"gg_session={ADMIN_KEY}"}
    for path in ("/models", "/gallery", "/status/x"):
        assert (await bridge.http.get(path, headers=headers)).status_code == 403
        assert (await bridge.http.get(path, headers=WITH_ADMIN_KEY)).status_code == 401
        assert (await bridge.http.get(path, headers={"Cookie": "gg_admin_session=good"})).status_code == 401


async def test_no_more_keys_are_looked_at_when_too_many_wrong_ones_came(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", admin_key=ADMIN_KEY, bad_keys_per_minute=3) as bridge:
        codes = []
        for _ in range(4):
            reply = await bridge.http.post("/admin/session", headers={"X-Admin-Key": "wrong-key-0123456"})
            codes.append(reply.json()["detail"]["code"])
        assert codes == ["admin_key_invalid"] * 3 + ["admin_rate_limited"]
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, str(RETRY_AFTER_S))
        right = await bridge.http.get("/admin/health", headers=WITH_ADMIN_KEY)
        assert (right.status_code, right.json()["detail"]["code"]) == (429, "admin_rate_limited")
        # A session that is open goes on.
        bridge.admission.admin_sessions["good"] = access.ADMIN_VERDICT_GRANTED
        assert (await bridge.http.get("/admin/health", headers={"Cookie": "gg_admin_session=good"})).status_code == 200


async def test_nobody_is_let_in_when_admission_is_away(bridge: BridgeUnderTest) -> None:
    bridge.admission.refusal = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.", retry_after_s=3)
    for method, path, _action in PATHS:
        reply = await bridge.http.request(method, path, headers=WITH_ADMIN_KEY)
        assert (reply.status_code, reply.json()["detail"]["code"], reply.headers["Retry-After"]) == (503, "service_unavailable", "3")


@PREFIXES
async def test_health_is_ok_when_every_model_has_a_ready_lane(bridge: BridgeUnderTest, prefix: str) -> None:
    queues = [operator.QueueSnapshot(model=model) for model in ("anisora", "phr00t")]
    lane = operator.LaneSnapshot(
        lane_id="lane-anisora",
        models=["anisora"],
        lane_mode=LaneMode.LANE_MODE_DEDICATED,
        availability=operator.AVAILABILITY_READY,
        warm=True,
        cold_starts=1,
    )
    bridge.admission.snapshot = operator.GetSnapshotResponse(taken_at=stamp(ACTIVE_AT), queues=queues, lanes=[lane])
    half = (await bridge.http.get(f"{prefix}/admin/health", headers=WITH_ADMIN_KEY)).json()
    assert (half["ok"], half["ready_accounts"]) == (False, 1)
    diagnostics = half["diagnostics"]
    assert {"queue_depth", "queue_overloaded_count", "queue_timeout_count", "fallback_count"} < set(diagnostics)
    told = {"model", "mode", "availability", "warm", "resident_model", "cold_start_count", "memory", "fallback_reason", "fallback_seconds"}
    assert told < set(diagnostics["lanes"][0])
    bridge.admission.snapshot.lanes.add(lane_id="pool", models=["anisora", "phr00t"], availability=operator.AVAILABILITY_READY)
    whole = (await bridge.http.get(f"{prefix}/admin/health", headers=WITH_ADMIN_KEY)).json()
    assert (whole["ok"], whole["ready_accounts"]) == (True, 2)


@PREFIXES
async def test_accounts_show_the_newest_events_of_lanes_and_models_when_there_are_many(bridge: BridgeUnderTest, prefix: str) -> None:
    for sequence in range(1, 3001):
        is_lane = sequence % 10 == 0
        event = TaskEvent(
            sequence=sequence,
            event_type="lane_ready" if is_lane else "accepted",
            value=str(sequence),
            lane_id="lane-anisora" if is_lane else "",
            created_at=stamp(ACTIVE_AT),
        )
        bridge.admission.events.append(event)
    reply = (await bridge.http.get(f"{prefix}/admin/accounts", headers=WITH_ADMIN_KEY)).json()
    assert set(reply) == {"accounts", "diagnostics", "events"}
    assert reply["accounts"] == []
    assert [event["value"] for event in reply["events"]] == [str(sequence) for sequence in range(3000, 2000, -10)]
    assert reply["events"][0] == {
        "event_type": "lane_ready",
        "value": "3000",
        "reason": "",
        "created_at": "2026-01-01T12:30:00Z",
        "lane": "lane-anisora",
        "model": None,
    }
    # Where the log ends, and its last thousand events: the rest was not read.
    end, look = bridge.admission.watched
    assert (end.only_new, look.after_sequence, look.no_follow) == (True, 2000, True)
    assert set(look.event_types) == {*ADMISSION_EVENTS, *LANE_EVENTS, *MODEL_EVENTS}


async def test_events_are_looked_for_further_back_when_the_last_ones_are_of_tasks(bridge: BridgeUnderTest) -> None:
    bridge.admission.events = [TaskEvent(sequence=7, event_type="lane_ready", lane_id="a"), TaskEvent(sequence=20_000, event_type="ended")]
    reply = (await bridge.http.get("/admin/accounts", headers=WITH_ADMIN_KEY)).json()
    assert [event["lane"] for event in reply["events"]] == ["a"]
    assert [request.after_sequence for request in bridge.admission.watched] == [0, 19_000, 12_000, 0]


@pytest.mark.parametrize("newest", [0, 40, 100])
async def test_look_for_events_is_bounded_when_they_crowd_in_one_place(bridge: BridgeUnderTest, newest: int) -> None:
    crowd = [TaskEvent(sequence=sequence, event_type="lane_ready", value="crowd") for sequence in range(1, 30_001)]
    after = [TaskEvent(sequence=100_000 + number, event_type="lane_ready", value="new") for number in range(newest)]
    bridge.admission.events = [*crowd, *after, TaskEvent(sequence=200_000, event_type="ended")]
    reply = (await bridge.http.get("/admin/accounts", headers=WITH_ADMIN_KEY)).json()
    assert [event["value"] for event in reply["events"]] == ["new"] * newest + ["crowd"] * (100 - newest)
    assert len(bridge.admission.watched) < 15


@PREFIXES
async def test_logs_list_every_call_newest_first_when_asked(bridge: BridgeUnderTest, prefix: str) -> None:
    await bridge.http.post("/admin/session", headers={"X-Admin-Key": "wrong-key-0123456"})
    await bridge.http.get("/admin/health", headers=WITH_ADMIN_KEY)
    reply = await bridge.http.get(f"{prefix}/admin/logs", headers=WITH_ADMIN_KEY)
    logs = reply.json()["logs"]
    assert [(entry["action"], entry["success"]) for entry in logs] == [
        ("admin_logs", True),
        ("admin_health", True),
        ("admin_session_create", False),
    ]
    assert logs[0] == {
        "id": 3,
        "ts": "2026-01-01T12:30:00Z",
        "ip": "127.0.0.1",
        "action": "admin_logs",
        "details": "GET /admin/logs",
        "success": True,
    }
    assert len((await bridge.http.get(f"{prefix}/admin/logs?limit=2", headers=WITH_ADMIN_KEY)).json()["logs"]) == 2


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", ""])
async def test_logs_are_refused_and_the_call_is_audited_when_the_limit_is_wrong(bridge: BridgeUnderTest, limit: str) -> None:
    reply = await bridge.http.get(f"/admin/logs?limit={limit}&key=hush", headers=WITH_ADMIN_KEY)
    assert (reply.status_code, reply.json()["detail"]["metadata"]["fields"][0]["field"]) == (422, "limit")
    assert bridge.admission.audit[0].details == "GET /admin/logs"
    stranger = await bridge.http.get(f"/admin/logs?limit={limit}")
    assert stranger.status_code == 401


async def test_documentation_names_both_ways_in_when_an_admin_path_is_shown(bridge: BridgeUnderTest) -> None:
    schema = (await bridge.http.get("/openapi.json")).json()
    schemes = schema["components"]["securitySchemes"]
    assert (schemes["AdminKey"]["name"], schemes["AdminSession"]["name"]) == ("X-Admin-Key", "gg_admin_session")
    for method, path, _action in PATHS:
        shown = schema["paths"][path][method.lower()]
        assert {name for way in shown["security"] for name in way} == {"AdminKey", "AdminSession"}, path
        # No dependency became a parameter or a body.
        assert {parameter["name"] for parameter in shown.get("parameters", [])} <= {"limit"}, path
        assert "requestBody" not in shown, path
