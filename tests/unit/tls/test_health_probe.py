"""The health probe of containers beside a server with TLS, with the server's own settings in its environment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from runtime.health_probe import main as probe
from runtime.rpc import OVERALL
from tests.harness.credentials import TOKENS, Authority, Issued, server_of
from tests.harness.echo import echo


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the test."""
    return Authority(tmp_path)


def _own(issued: Issued) -> dict[str, str]:
    return {"TLS_CERT_FILE": str(issued.cert), "TLS_KEY_FILE": str(issued.key)}


async def _probed(monkeypatch: pytest.MonkeyPatch, address: str, settings: Mapping[str, str], *service: str) -> int:
    with monkeypatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(f"WARMLANE_{name}", value)
        return await asyncio.to_thread(probe, [address, *service])


@pytest.mark.parametrize("names", [(), ("admission.example.org",), ("*.example.org",), ("192.0.2.1",)])
async def test_probe_tells_what_the_server_says_when_it_speaks_tls(
    monkeypatch: pytest.MonkeyPatch, ca: Authority, names: tuple[str, ...]
) -> None:
    issued = ca.issue(*names)
    async with echo(server_of(issued, tokens=TOKENS)) as server:
        address = f"127.0.0.1:{server.port}"
        assert await _probed(monkeypatch, address, _own(issued)) == 1
        await server.set_serving(OVERALL, True)
        assert await _probed(monkeypatch, address, _own(issued)) == 0
        assert await _probed(monkeypatch, address, _own(issued), "warmlane.unknown") == 1
        # Without the server's settings it speaks in the clear, and gets no answer.
        assert await _probed(monkeypatch, address, {}) == 1


async def test_probe_is_let_in_when_the_server_asks_for_client_certificates(monkeypatch: pytest.MonkeyPatch, ca: Authority) -> None:
    issued, client = ca.issue(), ca.issue("probe", file="probe")
    mutual = {**_own(issued), "TLS_CLIENT_CA_FILE": str(ca.cert)}
    own = {"TLS_CA_FILE": str(ca.cert), "TLS_CLIENT_CERT_FILE": str(client.cert), "TLS_CLIENT_KEY_FILE": str(client.key)}
    async with echo(server_of(issued, client_ca=ca)) as server:
        await server.set_serving(OVERALL, True)
        address = f"127.0.0.1:{server.port}"
        assert await _probed(monkeypatch, address, {**mutual, **own}) == 0
        # Without one of its own, it shows the server's, which is of the same CA.
        assert await _probed(monkeypatch, address, mutual) == 0


async def test_probe_fails_when_another_server_answers(monkeypatch: pytest.MonkeyPatch, ca: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    async with echo(server_of(stranger.issue())) as server:
        await server.set_serving(OVERALL, True)
        assert await _probed(monkeypatch, f"127.0.0.1:{server.port}", _own(ca.issue())) == 1


async def test_probe_speaks_in_the_clear_when_the_process_beside_it_only_calls_over_tls(
    monkeypatch: pytest.MonkeyPatch, ca: Authority
) -> None:
    # A lane on loopback, that dials an admission elsewhere.
    async with echo() as server:
        await server.set_serving(OVERALL, True)
        assert await _probed(monkeypatch, f"127.0.0.1:{server.port}", {"TLS_CA_FILE": str(ca.cert)}) == 0


async def test_probe_says_what_is_wrong_when_the_settings_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert await _probed(monkeypatch, "127.0.0.1:1", {"TLS_CERT_FILE": "/nowhere.pem"}) == 2
    assert capsys.readouterr().err.count("\n") == 1
