"""The pages over HTTP: types, copies that a browser keeps, and the policy that lets nothing foreign in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.bridge import BridgeUnderTest, running_bridge

_PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/pages/style.css", "text/css; charset=utf-8"),
        ("/pages/api.js", "text/javascript; charset=utf-8"),
        ("/pages/icon.svg", "image/svg+xml"),
    ],
)
async def test_page_is_sent_with_its_type_and_not_again_when_the_browser_has_it(
    bridge: BridgeUnderTest, path: str, media_type: str
) -> None:
    reply = await bridge.http.get(path, headers=_PLAIN)
    assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    head = await bridge.http.head(path, headers=_PLAIN)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(reply.content)))
    known = await bridge.http.get(path, headers=_PLAIN | {"If-None-Match": reply.headers["etag"]})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", reply.headers["etag"])
    other = await bridge.http.get(path, headers=_PLAIN | {"If-None-Match": '"another"'})
    assert other.content == reply.content


async def test_page_is_packed_when_the_browser_takes_it_so(bridge: BridgeUnderTest) -> None:
    plain = await bridge.http.get("/pages/api.js", headers=_PLAIN | {"Accept-Encoding": "br, gzip;q=0, deflate"})
    packed = await bridge.http.get("/pages/api.js", headers={"Accept-Encoding": "deflate, gzip;q=0.5"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert packed.headers["etag"] != plain.headers["etag"]
    for reply in (plain, packed):
        assert "accept-encoding" in reply.headers["vary"].lower()
    known = await bridge.http.get("/pages/api.js", headers={"Accept-Encoding": "gzip", "If-None-Match": packed.headers["etag"]})
    assert known.status_code == 304


@pytest.mark.parametrize("path", ["/pages/none.js", "/pages/__init__.py", "/pages/", "/pages/..%2Fconfig.py", "/pages/a/b"])
async def test_nothing_else_is_sent_when_it_is_asked_for(bridge: BridgeUnderTest, path: str) -> None:
    reply = await bridge.http.get(path)
    assert reply.status_code == 404
    assert reply.json()["detail"]["code"] == "not_found"


async def test_pages_are_no_part_of_the_api_when_it_is_described(bridge: BridgeUnderTest) -> None:
    paths = (await bridge.http.get("/openapi.json")).json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/pages")]
