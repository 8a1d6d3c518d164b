"""What is remembered of tasks is what the store has of them, or nothing."""

from __future__ import annotations

from admission.core.tasks import TaskId
from admission.recent_events import RecentEvents
from tests.harness.tasks import make_event

ONE, TWO = TaskId("task-1"), TaskId("task-2")


def _numbers(recent: RecentEvents, task_id: TaskId, after: int = 0, limit: int | None = None) -> list[int] | None:
    events = recent.of(task_id, after, limit)
    return None if events is None else [event.sequence for event in events]


def test_history_that_began_here_is_whole() -> None:
    recent = RecentEvents()
    recent.add(make_event("accepted", task_id=ONE), 7)
    recent.add(make_event("accepted", task_id=TWO), 8)
    recent.add(make_event("ended", task_id=ONE), 9)
    assert _numbers(recent, ONE) == [7, 9]
    assert _numbers(recent, ONE, after=7) == [9]
    assert _numbers(recent, ONE, limit=1) == [7]
    assert _numbers(recent, ONE, after=9) == []


def test_history_that_began_before_is_not_known() -> None:
    recent = RecentEvents()
    recent.add(make_event("ended", task_id=ONE), 9)
    assert _numbers(recent, ONE) is None


def test_events_of_no_task_are_left_to_the_store() -> None:
    recent = RecentEvents(most_events=1)
    recent.add(make_event("accepted", task_id=ONE), 1)
    recent.add(make_event("lane_ready", task_id=None), 2)
    assert _numbers(recent, ONE) == [1]


def test_oldest_task_goes_whole_when_there_are_too_many_events() -> None:
    recent = RecentEvents(most_events=3)
    for number, (event_type, task_id) in enumerate(
        (("accepted", ONE), ("attempt_started", ONE), ("accepted", TWO), ("ended", TWO)), start=1
    ):
        recent.add(make_event(event_type, task_id=task_id), number)
    assert _numbers(recent, ONE) is None
    # What comes later for it is no whole history.
    recent.add(make_event("ended", task_id=ONE), 5)
    assert _numbers(recent, ONE) is None
    assert _numbers(recent, TWO) == [3, 4]


def test_places_of_a_forgotten_task_are_free_again() -> None:
    recent = RecentEvents(most_events=2)
    recent.add(make_event("accepted", task_id=ONE), 1)
    recent.forget(ONE)
    recent.forget(ONE)
    recent.add(make_event("accepted", task_id=TWO), 2)
    recent.add(make_event("ended", task_id=TWO), 3)
    assert _numbers(recent, ONE) is None
    assert _numbers(recent, TWO) == [2, 3]
