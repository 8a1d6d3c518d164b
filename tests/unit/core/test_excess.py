"""What was measured beyond a prediction is expected again, at other sizes with care."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.core.excess import MOST, expected_bytes, raised

MIB = 1024**2

_KNOWN = st.dictionaries(st.integers(1, 40), st.integers(0, 10**10), max_size=6)
_SIZE = st.integers(0, 2**41)


def test_nothing_is_expected_when_predictions_held() -> None:
    assert expected_bytes({}, 300 * MIB) == 0
    assert raised({}, 300 * MIB, 300 * MIB) is None
    assert raised({}, 300 * MIB, 200 * MIB) is None


def test_as_much_is_expected_of_its_like_and_twice_at_most_of_any_larger() -> None:
    known = raised({}, 200 * MIB, 264 * MIB)
    assert known == {28: 64 * MIB}
    assert expected_bytes(known, 200 * MIB) == expected_bytes(known, 255 * MIB) == 64 * MIB
    assert expected_bytes(known, 384 * MIB) == 96 * MIB
    assert [expected_bytes(known, size * MIB) for size in (512, 6000, 60_000)] == [128 * MIB] * 3


def test_a_measurement_of_a_larger_clip_replaces_the_guess_about_it() -> None:
    known = {28: 64 * MIB}
    held = raised(known, 6000 * MIB, 5990 * MIB)
    assert held == {28: 64 * MIB, 33: 0}
    assert [expected_bytes(held, size * MIB) for size in (200, 6000)] == [64 * MIB] * 2
    assert expected_bytes(held, 20_000 * MIB) == 128 * MIB


def test_an_absurd_measurement_is_bounded() -> None:
    assert raised({}, 100 * MIB, 90_000 * MIB) == {27: MOST * 100 * MIB}
    assert raised({}, 0, 90_000 * MIB) is None


def test_it_never_falls_by_a_smaller_measurement() -> None:
    known = {29: 64 * MIB}
    assert raised(known, 300 * MIB, 330 * MIB) is None
    assert raised(known, 300 * MIB, 200 * MIB) is None


@given(_KNOWN, _SIZE, _SIZE)
def test_a_larger_clip_never_takes_less(known: dict[int, int], one: int, other: int) -> None:
    smaller, larger = sorted((one, other))
    assert smaller + expected_bytes(known, smaller) <= larger + expected_bytes(known, larger)


@given(_KNOWN, st.integers(1, 2**40), st.integers(0, 2**42))
def test_what_was_measured_is_expected_from_then_on(known: dict[int, int], size: int, peak: int) -> None:
    now = raised(known, size, peak)
    after = known if now is None else now
    assert size + expected_bytes(after, size) >= min(peak, size + MOST * size)


@pytest.mark.parametrize("known", [{30: 5 * MIB}, {30: 5 * MIB, 33: 9 * MIB}])
def test_a_smaller_clip_than_any_measured_takes_no_more_than_the_smallest_of_them(known: dict[int, int]) -> None:
    assert expected_bytes(known, 1 * MIB) == 5 * MIB
