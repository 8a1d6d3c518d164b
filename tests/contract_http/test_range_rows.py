"""Byte ranges, tags and HEAD of results and previews, as a video element asks for them."""

from __future__ import annotations

import re

import pytest

from tests.contract_http.doors import Door, assert_envelope
from tests.harness.noop_lanes import preview_bytes, video_bytes


@pytest.fixture(scope="module")
def done(key_door: Door) -> str:
    """A finished task."""
    return key_door.done()


@pytest.fixture(scope="module")
def content(done: str) -> bytes:
    """Its file."""
    return video_bytes(done)


# Header, first and one past the last byte; negative numbers count from the end, None is the end.
_PARTS: list[tuple[str, int, int | None]] = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-9", 0, 10),
    ("bytes=5-", 5, None),
    ("bytes=0-", 0, None),
    ("bytes=-7", -7, None),
    ("bytes=-100000", 0, None),
    ("bytes=10-100000", 10, None),
    ("bytes= 3-4", 3, 5),
    ("Bytes=3-4", 3, 5),
]


@pytest.mark.parametrize(("header", "start", "end"), _PARTS)
def test_one_range_is_given_as_206(door: Door, done: str, content: bytes, header: str, start: int, end: int | None) -> None:
    reply = door.http.get(f"/results/{done}", headers={"Range": header})
    expected = content[start:end]
    assert (reply.status_code, reply.content) == (206, expected)
    first = max(0, len(content) + start) if start < 0 else start
    assert reply.headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(content)}"
    assert reply.headers["content-length"] == str(len(expected))
    assert (reply.headers["content-type"], reply.headers["accept-ranges"]) == ("video/mp4", "bytes")


@pytest.mark.parametrize("header", ["bytes=100000-", "bytes=-0", "bytes=100000-100001"])
def test_range_beyond_the_file_is_416_and_says_its_size(door: Door, done: str, content: bytes, header: str) -> None:
    reply = door.http.get(f"/results/{done}", headers={"Range": header})
    assert_envelope(reply, 416, "range_not_satisfiable")
    assert reply.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=x", "bytes", "lines=0-1", "bytes=", "bytes=--1", "bytes=1-2-3"])
def test_range_that_is_none_is_ignored(door: Door, done: str, content: bytes, header: str) -> None:
    reply = door.http.get(f"/results/{done}", headers={"Range": header})
    assert (reply.status_code, reply.content) == (200, content)


def test_several_ranges_are_given_as_parts(door: Door, done: str, content: bytes) -> None:
    # 0-3 and 10-12 lie closer together than the head of a part is long: they come as one (RFC 9110, 15.3.7.2).
    reply = door.http.get(f"/results/{done}", headers={"Range": "bytes=0-3, 10-12, -2"})
    assert reply.status_code == 206
    kind, _, boundary = reply.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = reply.content.split(b"--" + boundary.strip('"').encode())[1:-1]
    size = len(content)
    told = []
    for part in parts:
        head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        assert b"content-type: video/mp4" in head.lower()
        place = re.search(rb"content-range: bytes (\d+)-(\d+)/(\d+)", head.lower())
        assert place is not None
        assert int(place[3]) == size
        told.append((int(place[1]), int(place[2]) + 1, body.removesuffix(b"\r\n")))
    assert told == [(0, 13, content[:13]), (size - 2, size, content[-2:])]


def test_range_counts_only_for_the_file_that_the_client_has(door: Door, done: str, content: bytes) -> None:
    tag = door.http.head(f"/results/{done}").headers["etag"]
    same = door.http.get(f"/results/{done}", headers={"Range": "bytes=0-1", "If-Range": tag})
    other = door.http.get(f"/results/{done}", headers={"Range": "bytes=0-1", "If-Range": '"another"'})
    assert (same.status_code, same.content) == (206, content[:2])
    assert (other.status_code, other.content) == (200, content)


@pytest.mark.parametrize("path", ["results", "preview"])
def test_head_is_the_reply_without_its_body(door: Door, done: str, path: str) -> None:
    whole, head = door.http.get(f"/{path}/{done}"), door.http.head(f"/{path}/{done}")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag", "content-disposition"):
        assert head.headers[name] == whole.headers[name], name


@pytest.mark.parametrize("path", ["results", "preview"])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"a", {}', "*"])
def test_file_is_not_sent_again_when_the_client_has_it(door: Door, done: str, path: str, form: str) -> None:
    tag = door.http.head(f"/{path}/{done}").headers["etag"]
    reply = door.http.get(f"/{path}/{done}", headers={"If-None-Match": form.format(tag)})
    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
    assert door.http.get(f"/{path}/{done}", headers={"If-None-Match": '"another"'}).status_code == 200


def test_preview_is_ranged_too_or_given_whole(door: Door, done: str) -> None:
    reply = door.http.get(f"/preview/{done}", headers={"Range": "bytes=0-1"})
    assert (reply.status_code, reply.content) in ((200, preview_bytes()), (206, preview_bytes()[:2]))


def test_name_of_the_file_is_safe(door: Door, done: str) -> None:
    told = door.http.head(f"/results/{done}").headers["content-disposition"]
    assert re.fullmatch(r'(inline|attachment); filename="[A-Za-z0-9._-]+\.mp4"', told)
    assert door.http.head(f"/results/{done}").headers["x-content-type-options"] == "nosniff"
