"""The parser of data URIs: bytes or one kind of error for anything, what was encoded comes back, and time is in proportion."""

from __future__ import annotations

import base64
import string
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.images import MAX_IMAGE_BYTES, InvalidImageError, check_data_uri, parse_data_uri

_TYPES = st.sampled_from(["image/png", "image/jpeg", "image/webp"])
_ALPHABET = string.ascii_letters + string.digits + "+/"
_NEARLY = st.tuples(
    st.sampled_from(["data:", "DATA:", "data", ""]),
    st.sampled_from(["image/png", "image/PNG", "image/jpg", "text/html", "image/svg+xml", ""]),
    st.sampled_from([";base64,", ";base64", ",", ";charset=utf-8;base64,", ";;base64,", " ;base64,"]),
    st.text(_ALPHABET + "= \n-_é", max_size=20),
).map("".join)
_ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.text() | _NEARLY | _ANY_JSON | st.binary())
@example("data:image/png;base64,\ud800AAA")
@example("data:image/png;base64," + "=" * 8)
@example("data:image/png;base64,A\x00AA")
def test_anything_is_answered_with_one_kind_of_error_when_it_is_no_picture(value: object) -> None:
    with pytest.raises(InvalidImageError) as caught:
        check_data_uri(value)
    assert 0 < len(str(caught.value)) < 300, "a sentence that repeats nothing of what was sent"


@given(_TYPES, st.binary(max_size=300), st.sampled_from([str.lower, str.upper, str]))
def test_the_bytes_come_back_when_they_were_encoded(media_type: str, content: bytes, spelled: Callable[[str], str]) -> None:
    header = spelled(f"data:{media_type};base64,")
    assert parse_data_uri(header + base64.b64encode(content).decode()) == (media_type, content)


@given(_TYPES, st.text(_ALPHABET + "=", max_size=40))
def test_base64_is_taken_only_when_it_is_the_way_to_write_whole_bytes(media_type: str, payload: str) -> None:
    try:
        _, content = parse_data_uri(f"data:{media_type};base64,{payload}")
    except InvalidImageError:
        return
    # Padding and length are those of the bytes; the last character may have bits that say nothing.
    written = base64.b64encode(content).decode()
    assert (len(payload), payload.rstrip("=")[:-1], payload.count("=")) == (len(written), written.rstrip("=")[:-1], written.count("="))


@settings(max_examples=50)
@given(
    st.text(_ALPHABET, min_size=4, max_size=40).filter(lambda text: len(text) % 4 == 0),
    st.integers(0, 40),
    st.characters(exclude_categories=()),
)
def test_base64_is_refused_when_another_character_is_in_it(payload: str, at: int, character: str) -> None:
    if character in _ALPHABET + "=":
        return
    broken = payload[: at % len(payload)] + character + payload[at % len(payload) + 1 :]
    with pytest.raises(InvalidImageError):
        parse_data_uri(f"data:image/png;base64,{broken}")


def test_a_file_of_the_largest_size_is_taken_and_one_byte_more_is_not() -> None:
    assert len(parse_data_uri("data:image/png;base64," + base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode())[1]) == MAX_IMAGE_BYTES
    with pytest.raises(InvalidImageError, match="larger than 12 MiB"):
        parse_data_uri("data:image/png;base64," + base64.b64encode(bytes(MAX_IMAGE_BYTES + 1)).decode())


@pytest.mark.long
@pytest.mark.parametrize("unit", ["A", "=", "!", "AAA=", "é", ",", "data:image/png;base64,"])
def test_time_grows_with_the_length_and_no_faster_when_the_text_is_hostile(unit: str) -> None:
    def took_s(count: int) -> float:
        value = "data:image/png;base64," + unit * (count // len(unit))
        best = []
        for _ in range(5):
            began_s = time.process_time()
            with pytest.raises(InvalidImageError):
                check_data_uri(value)
            best.append(time.process_time() - began_s)
        return min(best)

    # Sixteen times the length; a parser that goes back would take 256 times as long.
    assert took_s(16_000_000) < 40 * took_s(1_000_000) + 0.02
