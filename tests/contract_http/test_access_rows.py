"""Who may call: health and sessions are open, everything else asks for the key or a session; the key wins."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.contract_http.doors import PREFIXES, SMALL, Door, assert_envelope, session_headers
from tests.harness.bridge import KEY
from tests.harness.contract_bridge import ContractBridge, contract_bridge
from tests.harness.http import NO_AUTHORITIES, fetch

# Method and path of everything that a session or the key opens.
PROTECTED = [
    ("GET", "/models"),
    ("POST", "/generate"),
    ("GET", "/status/x"),
    ("GET", "/results/x"),
    ("GET", "/preview/x"),
    ("GET", "/gallery"),
    ("DELETE", "/gallery/x"),
    ("POST", "/cancel/x"),
]
KEY_ONLY = [("POST", "/generate_direct")]
PREFIXED = pytest.mark.parametrize("prefix", PREFIXES, ids=["root", "api"])


@PREFIXED
def test_health_is_open(anonymous: httpx.Client, prefix: str) -> None:
    reply = anonymous.get(f"{prefix}/health")
    assert reply.status_code == 200
    body = reply.json()
    assert set(body) == {"status", "version", "app"}
    assert (body["status"], body["app"]) == ("ok", "warmlane")


@PREFIXED
def test_session_is_opened_with_its_cookie_for_24_hours(bridge: ContractBridge, anonymous: httpx.Client, prefix: str) -> None:
    reply = anonymous.post(f"{prefix}/auth/session")
    assert reply.status_code == 201
    body = reply.json()
    assert set(body) == {"session_status", "expires_at"}
    assert body["session_status"] == "active"
    expires_at = datetime.fromisoformat(body["expires_at"])
    assert expires_at - bridge.admission.clock.now().utc == timedelta(hours=24)
    name, *attributes = (part.strip().lower() for part in reply.headers["set-cookie"].split(";"))
    assert name.startswith("gg_session=")
    assert {"httponly", "path=/", "samesite=lax"} <= set(attributes)


@PREFIXED
def test_session_says_until_when_it_is_good(bridge: ContractBridge, anonymous: httpx.Client, prefix: str) -> None:
    reply = anonymous.get(f"{prefix}/auth/session", headers=session_headers(bridge.url))
    assert reply.status_code == 200
    assert (set(reply.json()), reply.json()["active"]) == ({"active", "expires_at"}, True)
    assert datetime.fromisoformat(reply.json()["expires_at"]).tzinfo == UTC


@PREFIXED
@pytest.mark.parametrize(
    ("headers", "code"), [({}, "generation_session_missing"), ({"Cookie": "gg_session=made-up"}, "generation_session_invalid")]
)
def test_session_is_refused_with_its_reason(anonymous: httpx.Client, prefix: str, headers: dict[str, str], code: str) -> None:
    assert_envelope(anonymous.get(f"{prefix}/auth/session", headers=headers), 401, code)


@PREFIXED
@pytest.mark.parametrize(("method", "path"), [*PROTECTED, *KEY_ONLY])
def test_nobody_gets_401_and_a_wrong_key_403(anonymous: httpx.Client, prefix: str, method: str, path: str) -> None:
    assert_envelope(anonymous.request(method, prefix + path), 401, "unauthenticated")
    wrong = anonymous.request(method, prefix + path, headers={"X-API-Key": "wrong-" + KEY})
    assert_envelope(wrong, 403, "forbidden")
    assert KEY not in wrong.text


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_every_door_is_opened(door: Door, method: str, path: str) -> None:
    assert door.http.request(method, path).status_code not in (401, 403)


@PREFIXED
def test_key_wins_when_a_session_comes_too(bridge: ContractBridge, anonymous: httpx.Client, prefix: str) -> None:
    session = session_headers(bridge.url)
    assert_envelope(anonymous.get(f"{prefix}/models", headers={**session, "X-API-Key": "wrong"}), 403, "forbidden")
    right = anonymous.get(f"{prefix}/models", headers={"Cookie": "gg_session=made-up", "X-API-Key": KEY})
    assert right.status_code == 200


@PREFIXED
def test_session_does_not_open_what_is_for_the_key_only(bridge: ContractBridge, anonymous: httpx.Client, prefix: str) -> None:
    session = session_headers(bridge.url)
    assert_envelope(anonymous.post(f"{prefix}/generate_direct", json=SMALL, headers=session), 401, "unauthenticated")
    reply = anonymous.post(f"{prefix}/generate_direct", json=SMALL, headers={"X-API-Key": KEY})
    assert (reply.status_code, set(reply.json()), reply.json()["status"]) == (202, {"task_id", "status"}, "pending")


@pytest.fixture
def aged(tmp_path: Path) -> Iterator[ContractBridge]:
    """A bridge of its own, whose time the test moves."""
    with contract_bridge(tmp_path) as running:
        yield running


def test_session_ends_after_24_hours_and_is_not_renewed(aged: ContractBridge) -> None:
    session = session_headers(aged.url)
    aged.admission.clock.advance(24 * 3600 - 1)
    assert fetch("GET", f"{aged.url}/models", headers=session).status_code == 200
    aged.admission.clock.advance(1)
    assert_envelope(fetch("GET", f"{aged.url}/auth/session", headers=session), 401, "generation_session_expired")
    assert_envelope(fetch("GET", f"{aged.url}/models", headers=session), 401, "generation_session_expired")


def test_protected_paths_are_not_served_when_no_key_is_configured(tmp_path: Path) -> None:
    with contract_bridge(tmp_path, api_key=None) as bridge, httpx.Client(verify=NO_AUTHORITIES, base_url=bridge.url) as client:
        for method, path in (*PROTECTED, *KEY_ONLY):
            for prefix in PREFIXES:
                detail = assert_envelope(client.request(method, prefix + path, headers={"X-API-Key": KEY}), 503, "service_unavailable")
                assert "WARMLANE_API_KEY" in detail["detail"]
        assert client.get("/health").status_code == 200


def test_cookies_are_secure_and_for_other_sites_by_default(tmp_path: Path) -> None:
    with contract_bridge(tmp_path, cookie_secure=True) as bridge:
        cookie = fetch("POST", f"{bridge.url}/auth/session").headers["set-cookie"].lower()
    assert {"secure", "samesite=none", "httponly", "path=/"} <= {part.strip() for part in cookie.split(";")}


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1:5173", "https://app.example.org"])
def test_origin_on_the_list_may_call_with_credentials(tmp_path: Path, origin: str) -> None:
    with contract_bridge(tmp_path, cors_origins=("https://app.example.org",)) as bridge:
        preflight = fetch(
            "OPTIONS",
            f"{bridge.url}/generate",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"},
        )
        for reply in (preflight, fetch("GET", f"{bridge.url}/models", headers={"Origin": origin})):
            assert reply.headers["access-control-allow-origin"] == origin
            assert reply.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize("origin", ["https://elsewhere.example.org", "null", "http://localhost:5174"])
def test_other_origin_is_not_let_in(anonymous: httpx.Client, origin: str) -> None:
    preflight = anonymous.options("/generate", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert_envelope(preflight, 400, "bad_request")
    for reply in (preflight, anonymous.get("/health", headers={"Origin": origin})):
        assert "access-control-allow-origin" not in reply.headers
