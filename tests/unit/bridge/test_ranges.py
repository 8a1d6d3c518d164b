"""Byte ranges and entity tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_bridge.ranges import ByteRange, UnsatisfiableRangeError, is_unchanged, may_serve_range, select_range


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
    assert select_range(header, 10) == ByteRange(start=start, end=end)


@pytest.mark.parametrize(
    "header", [None, "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=0-1,4-5", "items=0-1", "bytes=+1-2", "bytes=٣-"]
)
def test_whole_file_is_selected_when_header_says_nothing_usable(header: str | None) -> None:
    assert select_range(header, 10) is None


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_range_is_refused_when_file_has_no_such_bytes(header: str) -> None:
    with pytest.raises(UnsatisfiableRangeError):
        select_range(header, 10)


@given(header=st.text() | st.from_regex(r"bytes=\d{0,25}-\d{0,25}", fullmatch=True), size=st.integers(0, 2**50))
def test_part_is_always_inside_the_file_when_header_is_anything(header: str, size: int) -> None:
    try:
        part = select_range(header, size)
    except UnsatisfiableRangeError:
        return
    assert part is None or 0 <= part.start < part.end <= size


@given(content=st.binary(min_size=1, max_size=50), data=st.data())
def test_part_has_the_asked_bytes_when_first_and_last_are_in_the_file(content: bytes, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(content) - 1))
    last = data.draw(st.integers(first, len(content) - 1))
    part = select_range(f"bytes={first}-{last}", len(content))
    assert part is not None
    assert content[part.start : part.end] == content[first : last + 1]
    assert part.length == last + 1 - first


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
