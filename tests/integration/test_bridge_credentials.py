"""What users get from a bridge that admission lets in over TLS, and from one that it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from obstore.store import LocalStore
from structlog.testing import capture_logs

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from runtime.credentials import CallerCredentials, ServerCredentials
from runtime.roles import Role
from tests.harness.admission_double import admission_double
from tests.harness.bridge import QUICK, WITH_KEY, bridge_settings
from tests.harness.credentials import TOKENS, Authority, caller_of, server_of

BODY = {"model": "anisora", "prompt": "a boat", "mode": "t2v"}
PATHS = (("GET", f"/status/{'0' * 32}"), ("GET", "/gallery"), ("POST", "/generate"), ("POST", "/auth/session"))


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the test."""
    return Authority(tmp_path)


@asynccontextmanager
async def _bridge(folder: Path, server: ServerCredentials, caller: CallerCredentials) -> AsyncIterator[httpx.AsyncClient]:
    async with admission_double(server) as (_double, address):
        client = AdmissionClient(address, credentials=caller, patience=QUICK)
        app = create_app(bridge_settings(address), client, LocalStore(folder / "objects", mkdir=True))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://bridge", headers=WITH_KEY) as http,
        ):
            yield http


async def _statuses(http: httpx.AsyncClient) -> list[httpx.Response]:
    return [await http.request(method, path, json=BODY if method == "POST" else None) for method, path in PATHS]


async def test_bridge_serves_when_it_shows_its_certificate_and_token(tmp_path: Path, ca: Authority) -> None:
    caller = caller_of(ca, issued=ca.issue("bridge", file="bridge"), token=TOKENS[Role.BRIDGE])
    async with _bridge(tmp_path, server_of(ca.issue(), client_ca=ca, tokens=TOKENS), caller) as http:
        assert [reply.status_code for reply in await _statuses(http)] == [404, 200, 202, 201]


@pytest.mark.parametrize("role", [None, Role.LANE])
async def test_users_are_told_of_no_token_when_admission_does_not_let_the_bridge_in(
    tmp_path: Path, ca: Authority, role: Role | None
) -> None:
    # As it came from admission it would be 401 or 403: users would be asked for a key that was right.
    structlog.reset_defaults()
    caller = caller_of(ca, token=TOKENS[role] if role else "x" * 40)
    with capture_logs() as lines:
        async with _bridge(tmp_path, server_of(ca.issue(), tokens=TOKENS), caller) as http:
            replies = await _statuses(http)
    for reply in replies:
        assert reply.status_code == 503
        assert reply.json()["detail"]["code"] == "service_unavailable"
        assert "token" not in reply.text.lower()
        assert "Retry-After" in reply.headers
    told = [line for line in lines if line["event"] == "admission_refuses_this_bridge"]
    assert told
    assert not any(token in str(lines) for token in (*TOKENS.values(), "x" * 40))
