"""Rates over HTTP: new sessions, generations, wrong keys; and what the bridge remembers so that it need not ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from warmlane.admission.v1 import access_service_pb2 as access

from runtime.errors import ErrorCode, ServiceError
from tests.harness.access_double import RETRY_AFTER_S
from tests.harness.bridge import WITH_KEY, BridgeUnderTest, running_bridge

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])
BODY = {"model": "anisora", "type": "video", "mode": "t2v", "prompt": "a lake"}
# Far enough that the sessions of the double are good now, whenever that is.
LATER = datetime(2200, 1, 1, tzinfo=UTC)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(
        tmp_path / "objects",
        trusted_proxies=("127.0.0.1",),
        new_sessions_per_minute=2,
        generations_per_minute=2,
        bad_keys_per_minute=2,
    ) as bridge:
        bridge.admission.expires_at = LATER
        yield bridge


def _from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


@PREFIXES
async def test_no_more_sessions_are_opened_when_an_address_opened_many(bridge: BridgeUnderTest, prefix: str) -> None:
    replies = [await bridge.http.post(f"{prefix}/auth/session", headers=_from("198.51.100.1")) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [201, 201, 429]
    assert replies[2].json()["detail"]["code"] == "rate_limited"
    assert replies[2].headers["Retry-After"] == str(RETRY_AFTER_S)
    assert "Set-Cookie" not in replies[2].headers
    assert (await bridge.http.post(f"{prefix}/auth/session", headers=_from("198.51.100.2"))).status_code == 201


@PREFIXES
async def test_no_more_is_generated_when_a_session_made_many(bridge: BridgeUnderTest, prefix: str) -> None:
    session, other = bridge.add_session(session_id="s1"), bridge.add_session(session_id="s2")
    replies = [await bridge.http.post(f"{prefix}/generate", headers=session, json=BODY) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [202, 202, 429]
    assert (replies[2].json()["detail"]["code"], replies[2].headers["Retry-After"]) == ("rate_limited", str(RETRY_AFTER_S))
    assert len(bridge.admission.submitted) == 2
    # Others, the API key, and whatever else the session does go on.
    assert (await bridge.http.post(f"{prefix}/generate", headers=other, json=BODY)).status_code == 202
    assert (await bridge.http.post(f"{prefix}/generate", headers={**session, **WITH_KEY}, json=BODY)).status_code == 202
    assert (await bridge.http.get(f"{prefix}/gallery", headers=session)).status_code == 200


async def test_body_is_not_read_when_the_session_made_too_many(bridge: BridgeUnderTest) -> None:
    session = bridge.add_session(session_id="s1")
    bridge.admission.used[access.RATE_KIND_GENERATION, "s1"] = 2
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10):
            read += 1
            yield b" " * 1000

    reply = await bridge.http.post("/generate", headers=session, content=body())
    assert (reply.status_code, read) == (429, 0)


@PREFIXES
async def test_wrong_keys_are_refused_unread_when_many_came_but_the_right_one_works(bridge: BridgeUnderTest, prefix: str) -> None:
    wrong = {"X-API-Key": "wrong", **_from("198.51.100.1")}
    replies = [await bridge.http.get(f"{prefix}/models", headers=wrong) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [403, 403, 429]
    assert (replies[2].json()["detail"]["code"], replies[2].headers["Retry-After"]) == ("rate_limited", str(RETRY_AFTER_S))
    assert (await bridge.http.get(f"{prefix}/models", headers={**WITH_KEY, **_from("198.51.100.1")})).status_code == 200
    assert (await bridge.http.get(f"{prefix}/models", headers={"X-API-Key": "wrong", **_from("198.51.100.2")})).status_code == 403
    assert bridge.admission.used[access.RATE_KIND_BAD_KEY, "198.51.100.1"] == 2


async def test_wrong_key_is_wrong_when_admission_cannot_count_it(bridge: BridgeUnderTest) -> None:
    bridge.admission.refusal = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.")
    reply = await bridge.http.get("/models", headers={"X-API-Key": "wrong"})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (403, "forbidden")


async def test_nothing_is_counted_when_the_limits_are_off(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", new_sessions_per_minute=0, generations_per_minute=0, bad_keys_per_minute=0) as bridge:
        session = bridge.add_session()
        assert (await bridge.http.post("/auth/session")).status_code == 201
        assert (await bridge.http.post("/generate", headers=session, json=BODY)).status_code == 202
        assert (await bridge.http.get("/models", headers={"X-API-Key": "wrong"})).status_code == 403
        assert not bridge.admission.used


async def test_admission_is_asked_once_when_a_session_is_used_again(bridge: BridgeUnderTest) -> None:
    session = bridge.add_session()
    for _ in range(3):
        assert (await bridge.http.get("/gallery", headers=session)).status_code == 200
    assert [check.generations_per_minute for check in bridge.admission.checked] == [0]
    # A generation must be counted, so it is asked about each time.
    for _ in range(2):
        assert (await bridge.http.post("/generate", headers=session, json=BODY)).status_code == 202
    assert [check.generations_per_minute for check in bridge.admission.checked] == [0, 2, 2]
    assert (await bridge.http.get("/auth/session", headers=session)).json() == {"active": True, "expires_at": "2200-01-01T00:00:00Z"}
    assert len(bridge.admission.checked) == 3


async def test_admission_is_asked_again_when_a_session_was_not_good(bridge: BridgeUnderTest) -> None:
    for _ in range(2):
        assert (await bridge.http.get("/gallery", headers=bridge.add_session(state="INVALID"))).status_code == 401
    assert (await bridge.http.get("/gallery", headers=bridge.add_session(state="ACTIVE"))).status_code == 200
    assert len(bridge.admission.checked) == 3


async def test_address_is_that_of_the_socket_when_the_peer_is_not_trusted(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects") as bridge:
        await bridge.http.post("/auth/session", headers=_from("198.51.100.1"))
        assert bridge.admission.used == {(access.RATE_KIND_NEW_SESSION, "127.0.0.1"): 1}
