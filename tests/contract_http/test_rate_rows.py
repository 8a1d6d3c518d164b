"""Limits of rates, at their defaults: 20 new sessions a minute of an address, 120 generations a minute of a session, none of the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract_http.doors import PREFIXES, SMALL, assert_envelope, session_headers
from tests.harness.bridge import WITH_KEY
from tests.harness.contract_bridge import ContractBridge, contract_bridge
from tests.harness.http import NO_AUTHORITIES

_SESSIONS, _GENERATIONS = 20, 120


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[ContractBridge]:
    """With the default limits, and time that the test moves."""
    with contract_bridge(tmp_path, new_sessions_per_minute=_SESSIONS, generations_per_minute=_GENERATIONS) as running:
        yield running


def test_21st_new_session_of_a_minute_is_refused_whatever_the_prefix(limited: ContractBridge) -> None:
    with httpx.Client(verify=NO_AUTHORITIES, base_url=limited.url) as client:
        replies = [client.post(f"{PREFIXES[number % 2]}/auth/session") for number in range(_SESSIONS + 1)]
        assert [reply.status_code for reply in replies] == [201] * _SESSIONS + [429]
        assert_envelope(replies[-1], 429, "rate_limited")
        assert 1 <= int(replies[-1].headers["retry-after"]) <= 60
        assert "set-cookie" not in replies[-1].headers
        limited.admission.clock.advance(60)
        assert client.post("/auth/session").status_code == 201


def test_121st_generation_of_a_session_in_a_minute_is_refused_and_another_session_is_not(limited: ContractBridge) -> None:
    session, other = session_headers(limited.url), session_headers(limited.url)
    with httpx.Client(verify=NO_AUTHORITIES, base_url=limited.url, timeout=20.0) as client:
        replies = [client.post("/generate", json=SMALL, headers=session) for _ in range(_GENERATIONS + 1)]
        assert [reply.status_code for reply in replies] == [202] * _GENERATIONS + [429]
        assert_envelope(replies[-1], 429, "rate_limited")
        assert 1 <= int(replies[-1].headers["retry-after"]) <= 60
        assert client.post("/generate", json=SMALL, headers=other).status_code == 202
        assert client.get("/models", headers=session).status_code == 200
        limited.admission.clock.advance(60)
        assert client.post("/generate", json=SMALL, headers=session).status_code != 429


def test_key_has_no_limit(limited: ContractBridge) -> None:
    with httpx.Client(verify=NO_AUTHORITIES, base_url=limited.url, timeout=20.0, headers=WITH_KEY) as client:
        assert {client.post("/generate", json=SMALL).status_code for _ in range(_GENERATIONS + 5)} == {202}
