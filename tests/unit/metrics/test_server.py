"""The server of `/metrics`: what it answers, what it refuses, and that it is in nobody's way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import pytest
from prometheus_client.core import GaugeMetricFamily
from pydantic import ValidationError

from runtime.addresses import BindError
from runtime.metrics.definition import counter
from runtime.metrics.registry import Registry
from runtime.metrics.server import MetricsServer
from runtime.metrics.settings import MetricsSettings
from tests.harness.metrics import Page

ANY = "127.0.0.1:0"
PATIENCE_S = 5.0


async def ask(server: MetricsServer, request: str) -> tuple[str, str]:
    """Status line and body of the answer."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"{request}\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
    return head.splitlines()[0], body


class Collector:
    """Gives three metrics; does before each what the test says."""

    def __init__(self, before: list[str], error: Exception | None = None) -> None:
        self._before = before
        self._error = error

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for number in range(3):
            self._before.append(f"metric {number}")
            if self._error is not None:
                raise self._error
            yield GaugeMetricFamily(f"warmlane_test_{number}", "A test.", value=number)


async def test_metrics_are_answered_when_they_are_asked_for() -> None:
    registry = Registry("test")
    counter("tests_total", "Tests that were counted.").counter(registry).add(by=3)
    async with MetricsServer(ANY, registry) as server:
        status, body = await ask(server, "GET /metrics?name=x HTTP/1.1")
        head = await ask(server, "HEAD /metrics HTTP/1.0")
    assert status == "HTTP/1.1 200 OK"
    assert Page(body).value("tests_total") == 3
    assert head == ("HTTP/1.1 200 OK", "")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", "404 Not Found"),
        ("GET /metrics/ HTTP/1.1", "404 Not Found"),
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("GET /metrics", "400 Bad Request"),
        ("\x16\x03\x01", "400 Bad Request"),
    ],
)
async def test_anything_else_is_refused_when_it_is_asked_for(request_line: str, status: str) -> None:
    async with MetricsServer(ANY, Registry("test")) as server:
        assert (await ask(server, request_line))[0] == f"HTTP/1.1 {status}"


async def test_loop_goes_on_between_metrics_when_a_page_is_made() -> None:
    happened: list[str] = []
    registry = Registry("test")
    registry.register(Collector(happened))

    async def other_work() -> None:
        while "metric 2" not in happened:
            happened.append("other work")
            await asyncio.sleep(0)

    async with MetricsServer(ANY, registry) as server:
        asking = asyncio.create_task(ask(server, "GET /metrics HTTP/1.1"))
        await other_work()
        await asking
    between = happened[happened.index("metric 0") : happened.index("metric 2")]
    assert "other work" in between


async def test_failure_is_told_when_a_collector_fails() -> None:
    registry = Registry("test")
    registry.register(Collector([], RuntimeError("broken")))
    async with MetricsServer(ANY, registry) as server:
        assert (await ask(server, "GET /metrics HTTP/1.1"))[0] == "HTTP/1.1 500 Internal Server Error"
        # It goes on.
        assert (await ask(server, "GET / HTTP/1.1"))[0] == "HTTP/1.1 404 Not Found"


async def test_connection_is_closed_when_the_request_has_no_end() -> None:
    async with MetricsServer(ANY, Registry("test")) as server, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(OSError):
            writer.write(b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
            await writer.drain()
            assert await reader.read() == b""
        writer.close()


async def test_more_are_turned_away_when_many_connections_say_nothing() -> None:
    async with MetricsServer(ANY, Registry("test")) as server, asyncio.timeout(PATIENCE_S):
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(8)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        for _, one in silent:
            one.close()


async def test_nothing_is_left_when_it_is_stopped_while_somebody_is_connected() -> None:
    server = MetricsServer(ANY, Registry("test"))
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    port = server.port
    await asyncio.sleep(0)
    await server.stop()
    await server.stop()
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", port)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "metrics-request"] == []


async def test_reason_is_told_in_a_sentence_when_the_port_is_taken() -> None:
    async with MetricsServer(ANY, Registry("test")) as server:
        with pytest.raises(BindError, match=f"cannot listen on 127.0.0.1:{server.port}: another process holds the port"):
            await MetricsServer(f"127.0.0.1:{server.port}", Registry("other")).start()


async def test_nothing_listens_when_the_address_is_empty() -> None:
    async with MetricsServer("", Registry("test")) as server:
        assert server.port == 0


@pytest.mark.parametrize("bind", ["9100", ":9100", "host:", "host:x", "host:70000"])
def test_address_is_refused_when_it_is_none(bind: str) -> None:
    with pytest.raises(ValidationError, match="host:port"):
        MetricsSettings(metrics_bind=bind)


@pytest.mark.parametrize("bind", ["", "127.0.0.1:0", "0.0.0.0:9100", "[::1]:9100"])
def test_address_is_taken_when_it_is_one_or_empty(bind: str) -> None:
    assert MetricsSettings(metrics_bind=bind).metrics_bind == bind
