"""Edges, subjects and bounds of rates; test_rates.py of tests/properties has their laws."""

from __future__ import annotations

import sys

import pytest

from admission.rates import RateKind, Rates, subject_of

NEW, GENERATION = RateKind.NEW_SESSION, RateKind.GENERATION


def test_event_counts_no_more_when_it_is_exactly_a_minute_old() -> None:
    rates = Rates()
    assert rates.take(NEW, "a", 1, 100.0) is None
    assert rates.take(NEW, "a", 1, 159.5) == 0.5
    assert rates.wait_s(NEW, "a", 1, 160.0) is None
    assert rates.take(NEW, "a", 1, 160.0) is None


def test_refused_events_are_not_counted_when_they_go_on_coming() -> None:
    rates = Rates()
    rates.take(NEW, "a", 1, 0.0)
    for tenth in range(1, 600):
        assert rates.take(NEW, "a", 1, tenth / 10) is not None
    assert rates.take(NEW, "a", 1, 60.0) is None


def test_wait_is_until_enough_are_over_when_the_limit_was_lowered() -> None:
    rates = Rates()
    for second in range(5):
        rates.take(NEW, "a", 10, float(second))
    # Three of five must be over before the second of two may come: those of 0, 1, 2 and 3 s leave one.
    assert rates.wait_s(NEW, "a", 2, 10.0) == 63.0 - 10.0
    assert rates.wait_s(NEW, "a", 6, 10.0) is None


def test_kinds_and_subjects_count_apart_when_one_is_used_up() -> None:
    rates = Rates()
    rates.take(NEW, "a", 1, 0.0)
    assert rates.wait_s(NEW, "a", 1, 0.0) is not None
    assert rates.wait_s(NEW, "b", 1, 0.0) is None
    assert rates.wait_s(RateKind.BAD_KEY, "a", 1, 0.0) is None


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("203.0.113.007", "203.0.113.007"),
        ("somebody", "somebody"),
        ("", ""),
    ],
)
def test_subject_is_who_has_the_address_when_it_is_one(address: str, subject: str) -> None:
    assert subject_of(address) == subject


def test_neighbours_in_a_network_count_as_one_when_they_are_addresses() -> None:
    rates = Rates()
    for kind in (NEW, RateKind.BAD_KEY, RateKind.BAD_ADMIN_KEY):
        assert rates.take(kind, "2001:db8::1", 1, 0.0) is None
        assert rates.take(kind, "2001:db8::2", 1, 0.0) is not None
    # An id is what it is.
    assert rates.take(GENERATION, "2001:db8::1", 1, 0.0) is None
    assert rates.take(GENERATION, "2001:db8::2", 1, 0.0) is None


def test_least_recently_asked_goes_when_there_are_too_many_subjects() -> None:
    rates = Rates(max_subjects=3)
    for second, subject in enumerate("abc"):
        rates.take(GENERATION, subject, 1, float(second))
    # A refusal is a use.
    assert rates.take(GENERATION, "a", 1, 3.0) is not None
    rates.take(GENERATION, "d", 1, 4.0)
    assert [rates.wait_s(GENERATION, subject, 1, 4.0) is None for subject in "abcd"] == [False, True, False, False]
    # Other kinds have room of their own.
    rates.take(NEW, "e", 1, 4.0)
    assert rates.wait_s(GENERATION, "c", 1, 4.0) is not None


def test_least_recently_asked_goes_when_there_are_too_many_events() -> None:
    rates = Rates(max_events=10)
    for _ in range(6):
        rates.take(GENERATION, "a", 100, 0.0)
    for _ in range(4):
        rates.take(GENERATION, "b", 100, 0.0)
    assert rates.wait_s(GENERATION, "a", 6, 0.0) is not None
    rates.take(GENERATION, "b", 100, 0.0)
    # Looking made "a" the one that was asked for last, before "b" was counted.
    assert rates.wait_s(GENERATION, "a", 1, 0.0) is None
    assert rates.wait_s(GENERATION, "b", 5, 0.0) is not None


def test_one_subject_has_its_whole_limit_when_it_is_above_the_bound_of_events() -> None:
    rates = Rates(max_events=10)
    assert all(rates.take(GENERATION, "a", 50, 0.0) is None for _ in range(50))
    assert rates.take(GENERATION, "a", 50, 0.0) is not None


def test_nothing_is_kept_of_subjects_when_their_minute_is_over() -> None:
    rates = Rates()
    for number in range(1000):
        rates.take(GENERATION, str(number), 5, number / 1000)
    for number in range(1000):
        rates.take(GENERATION, "one", 10_000, 100.0 + number / 1000)
    kept = rates._of_kind[GENERATION]
    assert (len(kept._events), kept._kept) == (1, 1000)


def test_memory_stays_small_when_one_subject_uses_all_it_may_for_long() -> None:
    rates, per_minute = Rates(), 600
    for tenth in range(20_000):
        assert rates.take(GENERATION, "a", per_minute, tenth / 10) is None
    # Eight bytes an event; old ones are at most as many as those that count.
    assert sys.getsizeof(rates._of_kind[GENERATION]._events["a"]._times) < 4 * 8 * per_minute


def test_nothing_is_kept_when_nobody_was_counted() -> None:
    rates = Rates()
    assert rates.wait_s(GENERATION, "a", 1, 0.0) is None
    assert not rates._of_kind[GENERATION]._events
