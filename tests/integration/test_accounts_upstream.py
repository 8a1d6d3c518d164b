"""The admin paths of accounts through the bridge: who may, what is passed on to their server, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response
from structlog.testing import capture_logs

from tests.harness.bridge import KEY, BridgeUnderTest, running_bridge
from tests.harness.upstream import ADMIN_KEY, UpstreamDouble, code_of, envelope, upstream_double

OUR_ADMIN_KEY = "bridge-admin-key-0123456789"
AS_ADMIN = {"X-Admin-Key": OUR_ADMIN_KEY}
PASSED = [
    ("POST", "/accounts", "admin_accounts_post"),
    ("PUT", "/accounts/a1", "admin_accounts_put"),
    ("PATCH", "/accounts/a1/quota", "admin_accounts_patch"),
    ("DELETE", "/accounts/a1", "admin_accounts_delete"),
    ("GET", "/accounts/a1/logs", "admin_accounts_get"),
    ("POST", "/deploy-all", "admin_deploy_all_post"),
    ("GET", "/deploy-all", "admin_deploy_all_get"),
]


def _settings(upstream: UpstreamDouble, **more: Any) -> dict[str, Any]:
    own = {"admin_key": OUR_ADMIN_KEY, "accounts_upstream_url": upstream.url, "accounts_upstream_key": ADMIN_KEY}
    return {**own, "upstream_timeout_s": 5, **more}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
async def bridge(tmp_path: Path, upstream: UpstreamDouble) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects", **_settings(upstream)) as bridge:
        yield bridge


async def test_request_is_passed_on_and_audited_when_an_admin_makes_it(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for prefix in ("", "/api"):
        for method, path, action in PASSED:
            body: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": {"region": "north"}}
            reply = await bridge.http.request(method, f"{prefix}/admin{path}?dry_run=1", headers=AS_ADMIN, **body)
            assert (reply.status_code, reply.json()) == (201 if method == "POST" else 200, {"did": f"{method} {path[1:]}"})
            came = upstream.requests[-1]
            assert (came.method, came.path, came.query) == (method, f"/admin{path}", "dry_run=1")
            assert came.header("x-admin-key") == ADMIN_KEY
            assert came.body == (b"" if not body else b'{"region":"north"}')
            call = bridge.admission.admin_calls[-1]
            assert call.action == action
            assert "dry_run" not in call.details


async def test_nobody_is_passed_on_when_no_admin_calls(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for headers, code in (({}, (401, "admin_session_missing")), ({"X-Admin-Key": "wrong-key-0123456789"}, (403, "admin_key_invalid"))):
        for method, path, _action in PASSED:
            assert code_of(await bridge.http.request(method, f"/admin{path}", headers={**headers, "X-API-Key": KEY})) == code
    assert upstream.requests == []


async def test_setting_is_named_when_no_server_of_accounts_is_set(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", admin_key=OUR_ADMIN_KEY) as bridge:
        for method, path, _action in PASSED:
            reply = await bridge.http.request(method, f"/admin{path}", headers=AS_ADMIN)
            assert code_of(reply) == (501, "not_supported")
            assert "WARMLANE_ACCOUNTS_UPSTREAM_URL" in reply.json()["detail"]["detail"]
        reply = await bridge.http.get("/admin/accounts", headers=AS_ADMIN)
        assert (reply.status_code, reply.json()["accounts"], reply.json()["diagnostics"]["upstream"]) == (200, [], None)


async def test_accounts_stand_in_our_reply_when_their_server_tells_them(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.accounts = {"accounts": [{"id": "a1", "gpu": 1}], "diagnostics": {"region": "north"}, "events": [{"event": "x"}, "odd"]}
    reply = await bridge.http.get("/admin/accounts", headers=AS_ADMIN)
    found = reply.json()
    assert (reply.status_code, found["accounts"], found["events"]) == (200, [{"id": "a1", "gpu": 1}], [{"event": "x"}])
    assert found["diagnostics"]["upstream"] == {"region": "north"}
    assert "queue_depth" in found["diagnostics"]
    health = await bridge.http.get("/admin/health", headers=AS_ADMIN)
    assert (health.status_code, health.json()["ready_accounts"]) == (200, 1)


async def test_health_answers_and_accounts_do_not_when_their_server_is_away(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admin_key": OUR_ADMIN_KEY, "accounts_upstream_url": "http://127.0.0.1:1"}
    async with running_bridge(tmp_path / "objects", **settings) as bridge:
        assert code_of(await bridge.http.get("/admin/accounts", headers=AS_ADMIN)) == (503, "service_unavailable")
        assert code_of(await bridge.http.post("/admin/deploy-all", headers=AS_ADMIN)) == (503, "service_unavailable")
        health = await bridge.http.get("/admin/health", headers=AS_ADMIN)
        assert (health.status_code, health.json()["ready_accounts"]) == (200, 0)


async def test_path_is_refused_when_it_might_mean_another(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    for trick in ("a%2F..%2Fb", "%2e%2e/health", "a//b", "a%5Cb", "a%00", "a%0d%0aX: y", "a;b", "\u00e9", "", "a/", "a%252Fb"):
        assert code_of(await bridge.http.get(f"/admin/accounts/{trick}", headers=AS_ADMIN)) == (404, "not_found"), trick
    assert upstream.requests == []


async def test_segment_of_an_address_is_passed_on_when_it_is_encoded(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    await bridge.http.get("/admin/accounts/someone%40example.org/state", headers=AS_ADMIN)
    assert upstream.requests[-1].path == "/admin/accounts/someone@example.org/state"


async def test_body_and_query_are_refused_when_they_are_too_large(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    assert code_of(await bridge.http.post("/admin/accounts", headers=AS_ADMIN, content=b"x" * (1024 * 1024 + 1))) == (
        413,
        "payload_too_large",
    )
    assert code_of(await bridge.http.get(f"/admin/accounts/a?x={'y' * 5000}", headers=AS_ADMIN)) == (400, "bad_request")
    assert upstream.requests == []


async def test_refusal_keeps_its_own_code_when_their_server_refuses(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    answers: list[tuple[int, Any, tuple[int, str]]] = [
        (409, envelope("account_busy", "It deploys.", id="a1"), (409, "account_busy")),
        (404, envelope("account_not_found", "No."), (404, "account_not_found")),
        (404, {"detail": "Not Found"}, (404, "not_found")),
        (400, {"detail": "no"}, (400, "bad_request")),
        (409, envelope("Weird Code<b>", "No."), (400, "bad_request")),
        (403, envelope("admin_key_invalid", f"It is {ADMIN_KEY}."), (503, "service_unavailable")),
        (500, envelope("internal", "trace"), (503, "service_unavailable")),
        (302, {}, (503, "service_unavailable")),
    ]
    for status, content, expected in answers:
        upstream.error("POST", "/admin/deploy-all", status, content, **{"Retry-After": "4"})
        with capture_logs() as logs:
            reply = await bridge.http.post("/admin/deploy-all", headers=AS_ADMIN)
        assert code_of(reply) == expected
        assert {"code", "detail", "user_action"} <= set(reply.json()["detail"])
        assert ADMIN_KEY not in reply.text + str(reply.headers) + str(logs)


async def test_reply_is_of_a_type_without_code_when_their_server_says_otherwise(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    upstream.answers["GET", "/admin/accounts/a1"] = lambda: Response("<script>", media_type="text/html")
    reply = await bridge.http.get("/admin/accounts/a1", headers=AS_ADMIN)
    assert (reply.status_code, reply.headers["content-type"], reply.content) == (200, "application/octet-stream", b"<script>")
    upstream.answers["DELETE", "/admin/accounts/a1"] = lambda: Response(status_code=204)
    assert (await bridge.http.delete("/admin/accounts/a1", headers=AS_ADMIN)).status_code == 204


async def test_nothing_of_a_caller_travels_and_nothing_of_the_server_comes_back(bridge: BridgeUnderTest, upstream: UpstreamDouble) -> None:
    secrets = {
        **AS_ADMIN,
        "X-API-Key": KEY,
        "Cookie": "gg_admin_session=admin-token; gg_session=token-of-s1",
        "Authorization": "Bearer bearer-value",
        "X-Forwarded-For": "203.0.113.77",
        "User-Agent": "agent-of-client",
    }
    with capture_logs() as logs:
        for method, path, _action in (*PASSED, ("GET", "/accounts", ""), ("GET", "/health", "")):
            reply = await bridge.http.request(method, f"/admin{path}?token=query-value", headers=secrets)
            assert not {"set-cookie", "server", "x-debug-key"} & set(reply.headers), path
    told = "\n".join(one.everything() for one in upstream.requests)
    for secret in (OUR_ADMIN_KEY, KEY, "admin-token", "token-of-s1", "bearer-value", "203.0.113", "-of-client", "upstream_session"):
        assert secret not in told, secret
    assert not any(secret in str(logs) for secret in ("query-value", ADMIN_KEY, OUR_ADMIN_KEY, KEY))
