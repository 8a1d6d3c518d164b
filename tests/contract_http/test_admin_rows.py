"""The admin rows of the table: sessions, health, accounts and logs, on both prefixes and with both credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract_http.doors import PREFIXES, Door, assert_envelope
from tests.harness.bridge import KEY, WITH_KEY
from tests.harness.contract_bridge import ADMIN_KEY, ContractBridge, contract_bridge
from tests.harness.http import NO_AUTHORITIES, fetch

_ADMIN = {"X-Admin-Key": ADMIN_KEY}
_IDLE_S = 12 * 3600
READS = ["/admin/session", "/admin/health", "/admin/accounts", "/admin/logs"]
UPSTREAM_ONLY = [
    ("POST", "/admin/accounts"),
    ("GET", "/admin/accounts/7"),
    ("PUT", "/admin/accounts/7"),
    ("DELETE", "/admin/accounts/7"),
    ("POST", "/admin/deploy-all"),
]
PREFIXED = pytest.mark.parametrize("prefix", PREFIXES, ids=["root", "api"])
_LANE_FACTS = (
    "model",
    "mode",
    "availability",
    "warm",
    "resident_model",
    "cold_start_count",
    "memory",
    "fallback_reason",
    "fallback_seconds",
)


def _session(bridge: ContractBridge, prefix: str = "") -> dict[str, str]:
    opened = fetch("POST", f"{bridge.url}{prefix}/admin/session", headers=_ADMIN)
    assert (opened.status_code, opened.content) == (204, b"")
    name, *attributes = (part.strip() for part in opened.headers["set-cookie"].split(";"))
    assert name.startswith("gg_admin_session=")
    assert {"httponly", "path=/"} <= {part.lower() for part in attributes}
    return {"Cookie": name}


@pytest.fixture(scope="module", params=[f"{prefix or '/'} {kind}" for prefix in PREFIXES for kind in ("key", "session")])
def admin(request: pytest.FixtureRequest, bridge: ContractBridge) -> Iterator[httpx.Client]:
    """An operator's client: each prefix with the key and with a session."""
    prefix, kind = request.param.split()
    prefix = "" if prefix == "/" else prefix
    headers = _ADMIN if kind == "key" else _session(bridge, prefix)
    with httpx.Client(verify=NO_AUTHORITIES, base_url=bridge.url + prefix, headers=headers, timeout=20.0) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ContractBridge]:
    """A bridge of its own, whose time the test moves; with the default limits."""
    with contract_bridge(tmp_path, bad_keys_per_minute=10) as running:
        yield running


def _logs(bridge: ContractBridge, limit: int = 100) -> list[dict[str, Any]]:
    reply = fetch("GET", f"{bridge.url}/admin/logs", params={"limit": limit}, headers=_ADMIN)
    assert reply.status_code == 200, reply.text
    logs: list[dict[str, Any]] = reply.json()["logs"]
    return logs


@PREFIXED
def test_session_is_opened_by_the_key_and_says_how_long_it_may_be_idle(bridge: ContractBridge, prefix: str) -> None:
    reply = fetch("GET", f"{bridge.url}{prefix}/admin/session", headers=_session(bridge, prefix))
    assert reply.status_code == 200
    assert set(reply.json()) == {"active", "idle_timeout_seconds", "last_activity_at"}
    assert (reply.json()["active"], reply.json()["idle_timeout_seconds"]) == (True, _IDLE_S)


@PREFIXED
@pytest.mark.parametrize("path", READS)
def test_nobody_is_let_in(anonymous: httpx.Client, prefix: str, path: str) -> None:
    assert_envelope(anonymous.get(prefix + path), 401, "admin_session_missing")
    assert_envelope(anonymous.get(prefix + path, headers={"Cookie": "gg_admin_session=made-up"}), 401, "admin_session_invalid")
    wrong = anonymous.get(prefix + path, headers={"X-Admin-Key": "wrong-" + ADMIN_KEY})
    assert_envelope(wrong, 403, "admin_key_invalid")
    assert ADMIN_KEY not in wrong.text
    # What opens the other paths opens none of these.
    assert_envelope(anonymous.get(prefix + path, headers=WITH_KEY), 401, "admin_session_missing")


@PREFIXED
def test_session_is_not_opened_by_anything_but_the_key(bridge: ContractBridge, anonymous: httpx.Client, prefix: str) -> None:
    path = f"{prefix}/admin/session"
    assert_envelope(anonymous.post(path, headers={"X-Admin-Key": KEY}), 403, "admin_key_invalid")
    assert anonymous.post(path).status_code in (401, 403)
    assert anonymous.post(path, headers=_session(bridge)).status_code in (401, 403)


@PREFIXED
def test_ended_session_is_refused_from_then_on(bridge: ContractBridge, prefix: str) -> None:
    session = _session(bridge, prefix)
    ended = fetch("DELETE", f"{bridge.url}{prefix}/admin/session", headers=session)
    assert (ended.status_code, ended.content) == (204, b"")
    for path in READS:
        assert_envelope(fetch("GET", f"{bridge.url}{prefix}{path}", headers=session), 401, "admin_session_invalid")


def test_session_ends_after_12_hours_without_use_and_any_use_renews_it(own: ContractBridge) -> None:
    session = _session(own)
    for path in READS:
        own.admission.clock.advance(_IDLE_S - 1)
        assert fetch("GET", own.url + path, headers=session).status_code == 200
    own.admission.clock.advance(_IDLE_S)
    assert_envelope(fetch("GET", f"{own.url}/admin/session", headers=session), 401, "admin_session_expired")


def test_eleventh_bad_key_of_a_minute_is_rate_limited(own: ContractBridge) -> None:
    codes = [fetch("POST", f"{own.url}/admin/session", headers={"X-Admin-Key": f"wrong-{number:020}"}) for number in range(11)]
    assert [reply.status_code for reply in codes] == [403] * 10 + [429]
    detail = assert_envelope(codes[-1], 429, "admin_rate_limited")
    assert int(codes[-1].headers["retry-after"]) >= 1
    assert detail["user_action"]
    own.admission.clock.advance(60)
    assert fetch("POST", f"{own.url}/admin/session", headers=_ADMIN).status_code == 204


@pytest.mark.parametrize("key", [None, "fifteen-letters"])
def test_admin_paths_say_that_they_are_misconfigured(tmp_path: Path, key: str | None) -> None:
    with contract_bridge(tmp_path, admin_key=key) as bridge:
        for path in READS:
            reply = fetch("GET", bridge.url + path, headers={"X-Admin-Key": key or ADMIN_KEY})
            assert_envelope(reply, 403, "admin_misconfigured")
        assert_envelope(fetch("POST", f"{bridge.url}/admin/session", headers=_ADMIN), 403, "admin_misconfigured")


def test_health_has_the_figures_of_queues_and_lanes(key_door: Door, admin: httpx.Client) -> None:
    prompt = "a prompt that stands nowhere else"
    key_door.done(prompt=prompt)
    reply = admin.get("/admin/health")
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) >= {"ok", "ready_accounts", "diagnostics"}
    assert body["ok"] is True
    diagnostics = body["diagnostics"]
    for name in ("queue_depth", "queue_overloaded_count", "queue_timeout_count", "fallback_count"):
        assert isinstance(diagnostics[name], int), name
    lanes = {lane["model"]: lane for lane in diagnostics["lanes"]}
    assert set(lanes) == {"anisora", "phr00t"}
    for lane in lanes.values():
        assert set(_LANE_FACTS) <= set(lane)
        assert (lane["mode"], lane["availability"], lane["warm"]) == ("dedicated", "ready", True)
    for secret in (KEY, ADMIN_KEY, prompt, *admin.headers.get("cookie", "x=x").split("=")[1:]):
        assert secret == "x" or secret not in reply.text


def test_accounts_are_listed_with_the_diagnostics(admin: httpx.Client) -> None:
    reply = admin.get("/admin/accounts")
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) >= {"accounts", "diagnostics", "events"}
    assert isinstance(body["accounts"], list)
    assert isinstance(body["events"], list)


@pytest.mark.parametrize(("method", "path"), UPSTREAM_ONLY)
def test_path_of_the_accounts_server_is_not_supported_without_one(admin: httpx.Client, method: str, path: str) -> None:
    assert_envelope(admin.request(method, path), 501, "not_supported")


def test_logs_have_every_call_newest_first(own: ContractBridge) -> None:
    session = _session(own)
    fetch("GET", f"{own.url}/admin/session", headers=session)
    fetch("DELETE", f"{own.url}/admin/session", headers=session)
    fetch("GET", f"{own.url}/admin/health", headers={"X-Admin-Key": "wrong-key-of-a-stranger"})
    logs = _logs(own)
    assert all(set(entry) == {"id", "ts", "ip", "action", "details", "success"} for entry in logs)
    ids = [entry["id"] for entry in logs]
    assert ids == sorted(ids, reverse=True)
    told = [(entry["action"], entry["success"]) for entry in reversed(logs)]
    assert told[:3] == [("admin_session_create", True), ("admin_session_get", True), ("admin_session_delete", True)]
    assert told[3][1] is False
    assert {entry["ip"] for entry in logs} == {"127.0.0.1"}
    assert "wrong-key-of-a-stranger" not in str(logs)
    assert ADMIN_KEY not in str(logs)


def test_logs_are_limited(admin: httpx.Client) -> None:
    for _ in range(3):
        admin.get("/admin/session")
    reply = admin.get("/admin/logs", params={"limit": 2})
    assert (reply.status_code, len(reply.json()["logs"])) == (200, 2)
    for limit in (0, -1, "x"):
        assert admin.get("/admin/logs", params={"limit": limit}).status_code == 422
