"""What browsers are told and kept from: pages of other origins, headers of every reply, the documentation, and where no secret may be."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs
from warmlane.admission.v1 import access_service_pb2 as access

from http_bridge.metrics import HttpMetrics
from runtime.errors import ErrorCode, ServiceError
from runtime.metrics.registry import Registry
from tests.harness.bridge import DONE_ID, WITH_KEY, BridgeUnderTest, running_bridge

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])
ADMIN_KEY = "admin-key-0123456"
APP = "https://app.example.org"
EVIL = {"Origin": "https://evil.example.org"}
CHANGES = [
    ("POST", "/generate"),
    ("POST", f"/cancel/{DONE_ID}"),
    ("DELETE", f"/gallery/{DONE_ID}"),
    ("POST", "/auth/session"),
]


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    public = "https://video.example.org/api"
    async with running_bridge(tmp_path / "objects", admin_key=ADMIN_KEY, cors_origins=(APP,), public_base_url=public) as bridge:
        bridge.add_done_task()
        yield bridge


@PREFIXES
@pytest.mark.parametrize(
    "page",
    [
        EVIL,
        {"Origin": "null"},
        {"Origin": "http://bridge.evil.example.org"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_nothing_is_changed_when_a_page_of_another_origin_uses_a_cookie(
    bridge: BridgeUnderTest, prefix: str, page: dict[str, str]
) -> None:
    for method, path in CHANGES:
        reply = await bridge.http.request(method, prefix + path, headers={**bridge.add_session(), **page}, content=b"{}")
        assert (reply.status_code, reply.json()["detail"]["code"]) == (403, "forbidden"), path
    assert DONE_ID in bridge.admission.tasks


@pytest.mark.parametrize(
    "page",
    [
        {},
        {"Origin": APP, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:5173"},
        {"Origin": "http://bridge"},
        {"Origin": "https://video.example.org"},
        {"Origin": "http://a-name-that-a-proxy-changed", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_change_is_made_when_the_page_is_of_an_allowed_origin_or_there_is_none(bridge: BridgeUnderTest, page: dict[str, str]) -> None:
    reply = await bridge.http.post(f"/cancel/{DONE_ID}", headers={**bridge.add_session(), **page})
    assert reply.status_code == 200


async def test_key_decides_when_a_page_sends_it(bridge: BridgeUnderTest) -> None:
    # A page of another origin cannot send a header of its own unless the preflight allowed it; a backend may send any Origin.
    reply = await bridge.http.post(f"/cancel/{DONE_ID}", headers={**bridge.add_session(), **WITH_KEY, **EVIL})
    assert reply.status_code == 200


async def test_reading_is_answered_and_not_shown_when_a_page_of_another_origin_asks(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.get(f"/status/{DONE_ID}", headers={**bridge.add_session(), **EVIL})
    assert reply.status_code == 200
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_page_of_another_origin_changes_nothing_when_everyone_may_call(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", api_key=None, allow_unauthenticated=True) as bridge:
        bridge.add_done_task()
        assert (await bridge.http.delete(f"/gallery/{DONE_ID}", headers=EVIL)).status_code == 403
        assert (await bridge.http.delete(f"/gallery/{DONE_ID}")).status_code == 200


@PREFIXES
async def test_admin_session_is_not_ended_and_the_try_is_audited_when_a_page_of_another_origin_asks(
    bridge: BridgeUnderTest, prefix: str
) -> None:
    await bridge.http.post("/admin/session", headers={"X-Admin-Key": ADMIN_KEY})
    cookie = {"Cookie": "gg_admin_session=admin-token-0"}
    reply = await bridge.http.delete(f"{prefix}/admin/session", headers={**cookie, **EVIL})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (403, "forbidden")
    entry = bridge.admission.audit[0]
    assert (entry.success, entry.details) == (False, "DELETE /admin/session, from a page of another origin")
    assert (await bridge.http.get("/admin/session", headers=cookie)).status_code == 200


@PREFIXES
async def test_every_reply_has_the_safe_headers_when_it_is_data(bridge: BridgeUnderTest, prefix: str) -> None:
    asked = [
        ("GET", "/health", {}),
        ("GET", "/gallery", WITH_KEY),
        ("GET", "/gallery", {}),
        ("GET", "/nothing", {}),
        ("PUT", "/health", {}),
        ("OPTIONS", "/generate", {"Origin": APP, "Access-Control-Request-Method": "POST"}),
        ("GET", f"/results/{DONE_ID}", WITH_KEY),
    ]
    for method, path, headers in asked:
        reply = await bridge.http.request(method, prefix + path, headers=headers)
        assert reply.headers["X-Content-Type-Options"] == "nosniff", path
        assert reply.headers["X-Frame-Options"] == "DENY", path
        assert reply.headers["Referrer-Policy"] == "no-referrer", path
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; "), path
        assert "frame-ancestors 'none'" in policy, path
        assert "Origin" in reply.headers["Vary"], path
        assert "Strict-Transport-Security" not in reply.headers, path
        stored = reply.headers["Cache-Control"]
        assert stored == ("private, no-cache" if path.startswith("/results") else "no-store"), path


async def test_video_and_preview_may_be_embedded_by_other_origins_and_nothing_else_may(bridge: BridgeUnderTest) -> None:
    for path, policy in ((f"/results/{DONE_ID}", "cross-origin"), (f"/preview/{DONE_ID}", "cross-origin"), ("/gallery", "same-origin")):
        reply = await bridge.http.get(path, headers=WITH_KEY)
        assert reply.headers["Cross-Origin-Resource-Policy"] == policy, path


async def test_https_is_asked_for_from_then_on_when_a_trusted_proxy_says_https(tmp_path: Path) -> None:
    forwarded = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https"}
    async with running_bridge(tmp_path / "objects", trusted_proxies=("127.0.0.1",)) as bridge:
        assert (await bridge.http.get("/health", headers=forwarded)).headers["Strict-Transport-Security"] == "max-age=31536000"
        # The own origin is the one that the browser sees.
        for origin, status in (("https://bridge", 404), ("http://bridge", 403)):
            headers = {**bridge.add_session(), **forwarded, "Origin": origin}
            assert (await bridge.http.post("/cancel/x", headers=headers)).status_code == status
    async with running_bridge(tmp_path / "objects") as bridge:
        assert "Strict-Transport-Security" not in (await bridge.http.get("/health", headers=forwarded)).headers


@pytest.mark.parametrize("header", ["X-Admin-Key", "Last-Event-ID", "Cache-Control", "Idempotency-Key", "X-API-Key", "Range"])
async def test_preflight_allows_every_header_that_a_client_of_ours_sends(bridge: BridgeUnderTest, header: str) -> None:
    asked = {"Origin": APP, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": header}
    assert (await bridge.http.options("/gallery", headers=asked)).status_code == 200


@PREFIXES
async def test_documentation_needs_no_other_host_and_no_script_in_its_text(bridge: BridgeUnderTest, prefix: str) -> None:
    page = await bridge.http.get(f"{prefix}/docs")
    policy = page.headers["Content-Security-Policy"]
    assert ("script-src 'self'; style-src 'self'; " in policy, "unsafe" in policy) == (True, False)
    assert "http" not in page.text.replace("http-equiv", "")
    assert "<script>" not in page.text
    for name, start in (
        ("swagger-ui-bundle.js", b"/*"),
        ("swagger-ui.css", b"."),
        ("start.js", b"SwaggerUIBundle("),
        ("favicon.png", b"\x89PNG"),
    ):
        file = await bridge.http.get(f"{prefix}/docs/{name}")
        assert (file.status_code, file.content.startswith(start)) == (200, True), name
        assert f"{prefix}/docs/{name}" in page.text
    assert f'"{prefix}/openapi.json"' in (await bridge.http.get(f"{prefix}/docs/start.js")).text
    assert (await bridge.http.get(f"{prefix}/docs/..%2f__init__.py")).status_code == 404


SECRETS = (
    *("key", "wrong_key", "admin_key", "wrong_admin_key", "token", "admin_token"),
    *("prompt", "negative", "picture", "bearer", "idempotency", "query", "value"),
)


class _Everything(logging.Handler):
    """Keeps what libraries log, at every level, but for the client of the test itself."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("http"):
            self.lines.append(f"{record.getMessage()} {record.exc_info}")


async def _ask_everything(bridge: BridgeUnderTest, secret: dict[str, str]) -> str:
    """Asks for everything, well and badly, with every secret in every place; the texts of all errors."""
    picture = f"data:image/png;base64,{base64.b64encode(secret['picture'].encode()).decode()}"
    body = {"model": "anisora", "mode": "t2v", "prompt": secret["prompt"], "negative_prompt": secret["negative"]}
    bodies = [body, {**body, "mode": "i2v", "reference_image": picture}, {**body, "steps": 5}, {**body, "width": secret["value"]}]
    credentials = [
        {"X-API-Key": secret["key"]},
        {"X-API-Key": secret["wrong_key"]},
        {"X-Admin-Key": secret["admin_key"]},
        {"X-Admin-Key": secret["wrong_admin_key"]},
        {"Cookie": f"gg_session={secret['token']}; gg_admin_session={secret['admin_token']}"},
        {"Cookie": f"gg_session={secret['token']}; gg_admin_session={secret['admin_token']}", **EVIL},
    ]
    extra = {"Authorization": f"Bearer {secret['bearer']}", "Idempotency-Key": secret["idempotency"]}
    query = f"?key={secret['query']}&limit={secret['query']}&page={secret['query']}"
    contents = [*(json.dumps(item) for item in bodies), secret["prompt"]]
    plain = [("GET", "/gallery"), ("GET", "/models"), ("GET", f"/status/{DONE_ID}"), ("POST", "/cancel/x"), ("GET", "/no")]
    plain += [("POST", "/admin/session"), *(("GET", f"/admin/{name}") for name in ("session", "health", "accounts", "logs"))]
    errors: list[str] = []
    for credential in credentials:
        headers = {**extra, **credential}
        asked: list[tuple[str, str, str | None]] = [("POST", f"/generate{query}", content) for content in contents]
        asked += [(method, path + query, None) for method, path in plain]
        asked.append(("GET", "/admin/logs", None))
        replies = [await bridge.http.request(method, path, headers=headers, content=content) for method, path, content in asked]
        errors += [reply.text for reply in replies if reply.status_code >= 400 or "/admin/" in str(reply.url)]
    return "\n".join(errors)


@pytest.mark.parametrize("state", ["well", "away", "failing"])
async def test_no_secret_is_in_a_log_a_metric_an_error_or_the_audit_log_when_every_request_brings_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    secret = {name: f"hush-{name.replace('_', '-')}-0123456789" for name in SECRETS}
    registry, everything = Registry("http-bridge"), _Everything()
    root = logging.getLogger()
    level = root.level
    root.addHandler(everything)
    root.setLevel(logging.DEBUG)
    try:
        async with running_bridge(
            tmp_path / "objects", metrics=HttpMetrics(registry), api_key=secret["key"], admin_key=secret["admin_key"]
        ) as bridge:
            bridge.add_done_task()
            bridge.admission.sessions[secret["token"]] = (access.SESSION_STATE_ACTIVE, "s1")
            bridge.admission.admin_sessions[secret["admin_token"]] = access.ADMIN_VERDICT_GRANTED
            if state == "away":
                bridge.admission.refusal = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.")
            if state == "failing":
                monkeypatch.setattr("http_bridge.routes.generate.take_in", _fails)
            with capture_logs() as logs:
                errors = await _ask_everything(bridge, secret)
            audit, calls = str(list(bridge.admission.audit)), bridge.admission.admin_calls
    finally:
        root.removeHandler(everything)
        root.setLevel(level)
    metrics = generate_latest(registry).decode()
    assert 'route="/generate"' in metrics
    assert bool(calls) == (state != "away")
    places = {"logs": str(logs), "library logs": "\n".join(everything.lines), "metrics": metrics, "errors": errors, "audit": audit}
    encoded = base64.b64encode(secret["picture"].encode()).decode()
    found = [(place, name) for place, text in places.items() for name, value in secret.items() if value in text]
    assert found == []
    assert [place for place, text in places.items() if encoded in text] == []
    assert not any(value in str(call) for call in calls for name, value in secret.items() if name != "admin_token")


async def _fails(_bridge: object, _body: bytearray) -> object:
    raise RuntimeError
