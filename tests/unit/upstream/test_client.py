"""The client of an upstream: what it counts, keeps and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from http_bridge.errors import HttpError
from http_bridge.metrics import HttpMetrics
from http_bridge.upstream.client import Call, Upstream, UpstreamClient
from runtime.metrics.registry import Registry
from tests.harness.metrics import page_of
from tests.harness.upstream import IMAGE_KEY, UpstreamDouble, upstream_double


@pytest.fixture
async def double(tmp_path: Path) -> AsyncIterator[UpstreamDouble]:
    async with upstream_double(tmp_path / "upstream") as double:
        yield double


@pytest.fixture
def registry() -> Registry:
    return Registry("http-bridge")


@pytest.fixture
async def client(double: UpstreamDouble, registry: Registry) -> AsyncIterator[UpstreamClient]:
    where = Upstream(name="image", base_url=double.url, key_header="X-API-Key", key=SecretStr(IMAGE_KEY), timeout_s=1)
    client = UpstreamClient(where, on_ended=HttpMetrics(registry).upstream_ended)
    await client.start()
    yield client
    await client.close()


async def test_call_is_counted_by_name_and_status_when_it_ends(double: UpstreamDouble, client: UpstreamClient, registry: Registry) -> None:
    double.add_image("a1")
    for path in ("/status/a1", "/status/a2", "/status/a1"):
        await client.call(Call(name="status", method="GET", path=path))
    double.hold = asyncio.Event()
    with pytest.raises(HttpError):
        await client.call(Call(name="models", method="GET", path="/models"))
    page = page_of(registry)
    assert page.value("http_upstream_requests_total", upstream="image", call="status", code="200") == 2
    assert page.value("http_upstream_requests_total", upstream="image", call="status", code="404") == 1
    assert page.value("http_upstream_requests_total", upstream="image", call="models", code="none") == 1
    assert page.value("http_upstream_seconds_count", upstream="image", call="status") == 3
    assert "a1" not in page.text


async def test_call_is_counted_and_its_place_free_when_its_caller_leaves(
    double: UpstreamDouble, client: UpstreamClient, registry: Registry
) -> None:
    double.hold = asyncio.Event()
    # More than there are places: some are still waiting for one.
    calls = [asyncio.create_task(client.call(Call(name="status", method="GET", path="/status/a1"))) for _ in range(80)]
    await double.holding.wait()
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    double.hold.set()
    double.hold = None
    replies = await asyncio.gather(*(client.call(Call(name="models", method="GET", path="/models")) for _ in range(40)))
    assert {reply.status for reply in replies} == {200}
    assert 0 < page_of(registry).total("http_upstream_requests_total", call="status", code="none") <= 64


async def test_cookie_is_not_sent_back_and_redirect_not_followed_when_the_upstream_sends_them(
    double: UpstreamDouble, client: UpstreamClient
) -> None:
    double.error("GET", "/models", 302, {}, Location="/status/a1")
    for _ in range(2):
        assert (await client.call(Call(name="models", method="GET", path="/models"))).status == 302
    assert [one.path for one in double.requests] == ["/models", "/models"]
    assert all(one.header("cookie") is None for one in double.requests)


async def test_environment_has_no_say_when_it_names_a_proxy(
    double: UpstreamDouble, client: UpstreamClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    await client.close()
    await client.start()
    assert (await client.call(Call(name="models", method="GET", path="/models"))).status == 200
    assert len(double.requests) == 1
