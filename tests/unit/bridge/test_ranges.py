"""Byte ranges and entity tags."""

from __future__ import annotations

import pytest

from http_bridge.ranges import ByteRange, UnsatisfiableRangeError, is_another, is_unchanged, may_serve_range, multipart, select_ranges


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-9", 0, 10),
        ("bytes=2-5", 2, 6),
        ("bytes=7-", 7, 10),
        ("bytes=0-", 0, 10),
        ("bytes=5-99", 5, 10),
        ("bytes=-3", 7, 10),
        ("bytes=-99", 0, 10),
        ("BYTES= 2-5 ", 2, 6),
        ("bytes=3-" + "9" * 5000, 3, 10),
        ("bytes=-" + "9" * 5000, 0, 10),
    ],
)
def test_part_is_selected_when_range_is_satisfiable(header: str, start: int, end: int) -> None:
    assert select_ranges(header, 10) == (ByteRange(start=start, end=end),)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-2",
        "bytes=0-1,x",
        "bytes=,",
        "bytes=0-1,5-2",
        "items=0-1",
        "bytes=+1-2",
        "bytes=٣-",
    ],
)
def test_whole_file_is_selected_when_header_says_nothing_usable(header: str | None) -> None:
    assert select_ranges(header, 10) == ()


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_range_is_refused_when_file_has_no_such_bytes(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        select_ranges(header, 10)


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("bytes=0-9,5000-5009", [(0, 10), (5000, 5010)]),
        ("bytes=5000-5009, 0-9", [(5000, 5010), (0, 10)]),
        (" bytes = 0-9 ,, 5000-5009 , ", [(0, 10), (5000, 5010)]),
        ("bytes=0-9,20000-,5000-5009", [(0, 10), (5000, 5010)]),
        ("bytes=5000-5009,0-9,5005-5100", [(0, 10), (5000, 5101)]),
        ("bytes=0-9,100-109", [(0, 110)]),
        ("bytes=-10,0-9", [(9990, 10_000), (0, 10)]),
        ("bytes=0-,-1,5-7", [(0, 10_000)]),
    ],
)
def test_parts_are_selected_when_several_ranges_are_asked(header: str, parts: list[tuple[int, int]]) -> None:
    assert select_ranges(header, 10_000) == tuple(ByteRange(start=start, end=end) for start, end in parts)


@pytest.mark.parametrize(("count", "parts"), [(16, 16), (17, 0)])
def test_whole_file_is_selected_when_too_many_parts_are_asked(count: int, parts: int) -> None:
    header = "bytes=" + ",".join(f"{number * 1000}-{number * 1000 + 9}" for number in range(count))
    assert len(select_ranges(header, 1_000_000)) == parts


def test_whole_file_is_selected_when_very_many_ranges_are_asked() -> None:
    assert select_ranges("bytes=" + ",".join(["0-0"] * 10_000), 10) == ()


def test_parts_have_their_heads_when_several_are_sent() -> None:
    parts = [ByteRange(start=0, end=2), ByteRange(start=500, end=501)]
    form = multipart(parts, size=1000, media_type="video/mp4", boundary="b")
    body = form.heads[0] + b"ab" + form.heads[1] + b"c" + form.tail
    assert body == (
        b"--b\r\nContent-Type: video/mp4\r\nContent-Range: bytes 0-1/1000\r\n\r\nab\r\n"
        b"--b\r\nContent-Type: video/mp4\r\nContent-Range: bytes 500-500/1000\r\n\r\nc\r\n--b--\r\n"
    )
    assert (form.length, form.media_type) == (len(body), "multipart/byteranges; boundary=b")


@pytest.mark.parametrize(
    ("header", "expected"), [(None, False), ("*", False), ('"x", "abc"', False), ('W/"abc"', True), ('"x"', True), ("abc", True)]
)
def test_file_is_another_when_if_match_does_not_name_it_strongly(header: str | None, expected: bool) -> None:
    assert is_another(header, '"abc"') is expected


@pytest.mark.parametrize("header", ['"abc"', 'W/"abc"', '"x", "abc"', '"x",W/"abc" , "y"', "*", " * "])
def test_copy_is_good_when_if_none_match_names_the_tag(header: str) -> None:
    assert is_unchanged(header, '"abc"')


@pytest.mark.parametrize("header", [None, "", "abc", '"ab"', '"abcd"', '"ab', '"a*c"'])
def test_copy_is_not_good_when_if_none_match_names_another_tag(header: str | None) -> None:
    assert not is_unchanged(header, '"abc"')


@pytest.mark.parametrize(
    ("header", "expected"), [(None, True), ('"abc"', True), ('W/"abc"', False), ('"x"', False), ("Wed, 21 Oct 2026 07:28:00 GMT", False)]
)
def test_range_counts_only_when_if_range_is_absent_or_strongly_equal(header: str | None, expected: bool) -> None:
    assert may_serve_range(header, '"abc"') is expected
