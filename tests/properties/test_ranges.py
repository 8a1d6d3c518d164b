"""The Range header against a naive model, which thinks in single bytes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from http_bridge.ranges import MAX_PARTS, UnsatisfiableRangeError, is_another, is_unchanged, may_serve_range, multipart, select_ranges

# Bytes between two ranges that are sent along rather than as a part of their own.
_NEAR = 160

_SIZES = st.integers(0, 5000)
_NUMBERS = st.integers(0, 6000)
_SPANS = st.one_of(
    st.tuples(_NUMBERS, _NUMBERS).map(lambda pair: (min(pair), max(pair))),
    st.tuples(_NUMBERS, st.none()),
    st.tuples(st.none(), _NUMBERS),
)
_SPACES = st.sampled_from(["", " ", "\t", "  "])


def _spelled(span: tuple[int | None, int | None]) -> str:
    first, last = span
    return f"{'' if first is None else first}-{'' if last is None else last}"


def _bytes_of(span: tuple[int | None, int | None], size: int) -> set[int]:
    """What one range means, byte for byte."""
    first, last = span
    every = range(size)
    if first is None:
        assert last is not None
        return {byte for byte in every if byte >= size - last}
    return {byte for byte in every if byte >= first and (last is None or byte <= last)}


@given(spans=st.lists(_SPANS, min_size=1, max_size=20), spaces=_SPACES, size=_SIZES)
def test_parts_hold_the_bytes_of_the_model_when_the_header_is_well_formed(
    spans: list[tuple[int | None, int | None]], spaces: str, size: int
) -> None:
    header = "bytes=" + ",".join(spaces + _spelled(span) + spaces for span in spans)
    wanted = set().union(*(_bytes_of(span, size) for span in spans))
    try:
        parts = select_ranges(header, size)
    except UnsatisfiableRangeError:
        assert not wanted
        return
    assert wanted
    if not parts:
        # Only a great many parts that lie apart are refused.
        gaps = [byte for byte in wanted if not any(byte - distance in wanted for distance in range(1, _NEAR + 2))]
        assert len(gaps) > MAX_PARTS
        return
    sent = [byte for part in parts for byte in range(part.start, part.end)]
    assert len(sent) == len(set(sent)), "no byte is sent twice"
    assert wanted <= set(sent)
    assert all(any(byte - back in wanted for back in range(_NEAR + 1)) for byte in sent), "what is sent beside it lies between near ranges"
    assert len(parts) <= MAX_PARTS
    assert sum(part.length for part in parts) <= size


@given(header=st.text() | st.from_regex(r"bytes=[\d\-, \t]{0,60}", fullmatch=True), size=st.integers(0, 2**50))
def test_parts_are_inside_the_file_and_apart_when_the_header_is_anything(header: str, size: int) -> None:
    try:
        parts = select_ranges(header, size)
    except UnsatisfiableRangeError:
        return
    assert all(0 <= part.start < part.end <= size for part in parts)
    ordered = sorted(parts, key=lambda part: part.start)
    assert all(one.end < other.start for one, other in pairwise(ordered))


@given(header=st.text() | st.from_regex(r'(W/)?"[^"]{0,5}"(, ?(W/)?"[^"]{0,5}"){0,3}'), tag=st.from_regex(r'"[a-z]{1,3}"', fullmatch=True))
def test_conditions_are_answered_when_the_header_is_anything(header: str, tag: str) -> None:
    assert isinstance(is_unchanged(header, tag), bool)
    assert isinstance(is_another(header, tag), bool)
    assert isinstance(may_serve_range(header, tag), bool)
    # What matches strongly matches weakly.
    assert is_another(header, tag) or is_unchanged(header, tag)


@given(content=st.binary(min_size=1, max_size=3000), spans=st.lists(_SPANS, min_size=2, max_size=6))
def test_a_reply_of_parts_is_as_long_as_it_says_when_it_is_put_together(content: bytes, spans: list[tuple[int | None, int | None]]) -> None:
    try:
        parts = select_ranges("bytes=" + ",".join(map(_spelled, spans)), len(content))
    except UnsatisfiableRangeError:
        return
    if len(parts) > 1:
        form = multipart(parts, size=len(content), media_type="video/mp4", boundary="b" * 32)
        body = b"".join(head + content[part.start : part.end] for head, part in zip(form.heads, parts, strict=True)) + form.tail
        assert len(body) == form.length
