"""Rates against a model that keeps every event for ever."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from admission.rates import WINDOW_S, RateKind, Rates

# Quarters of a second are exact in binary, and steps of a window meet its edge often.
_STEPS = st.sampled_from((0.0, 0.25, 1.0, 14.75, 29.5, 30.0, 30.25, 59.75, 60.0, 60.25, 200.0))
_KINDS = st.sampled_from((RateKind.GENERATION, RateKind.BAD_KEY))
_SUBJECTS = st.sampled_from(("a", "b", "c"))
_CALLS = st.lists(st.tuples(_STEPS, _KINDS, _SUBJECTS, st.integers(1, 4), st.booleans()), max_size=80)


class Naive:
    """What a rate means."""

    def __init__(self) -> None:
        self.taken: dict[tuple[RateKind, str], list[float]] = defaultdict(list)

    def wait_s(self, kind: RateKind, subject: str, per_minute: int, now_s: float) -> float | None:
        """The shortest wait after which less than `per_minute` events are younger than a window; None: none."""
        events = self.taken[kind, subject]
        for later_s in (now_s, *(at_s + WINDOW_S for at_s in events if at_s + WINDOW_S > now_s)):
            if sum(later_s - at_s < WINDOW_S for at_s in events) < per_minute:
                return later_s - now_s if later_s > now_s else None
        raise AssertionError


@given(_CALLS)
def test_every_answer_is_the_models_when_events_come_in_any_order(calls: list[tuple[float, RateKind, str, int, bool]]) -> None:
    rates, model, now_s = Rates(), Naive(), 1000.0
    for step_s, kind, subject, per_minute, takes in calls:
        now_s += step_s
        expected = model.wait_s(kind, subject, per_minute, now_s)
        if takes and expected is None:
            model.taken[kind, subject].append(now_s)
        ask = rates.take if takes else rates.wait_s
        assert ask(kind, subject, per_minute, now_s) == expected


@given(st.lists(st.tuples(_STEPS, st.integers(1, 4)), min_size=1, max_size=60))
def test_no_window_ever_holds_more_than_the_limit_when_one_is_kept(calls: list[tuple[float, int]]) -> None:
    rates, now_s, taken = Rates(), 0.0, list[float]()
    for step_s, _ in calls:
        now_s += step_s
        if rates.take(RateKind.GENERATION, "a", 3, now_s) is None:
            taken.append(now_s)
    assert all(sum(start_s <= at_s < start_s + WINDOW_S for at_s in taken) <= 3 for start_s in taken)
