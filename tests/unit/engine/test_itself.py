"""What admission tells of itself: its start, its store, and the lines of its log."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import structlog

from admission.core.tasks import Event, LaneId, Model, TaskId
from admission.event_log import log_event
from admission.store.port import EventQuery, StoreUnavailableError
from admission.store_watch import SLOW_COMMIT_S, StoreWatch
from tests.harness.engine import Rig, settle


class Counted:
    """Counts what the store watch passes on."""

    def __init__(self) -> None:
        self.commits: list[float] = []
        self.failures = 0

    def committed(self, *, decisions: int, seconds: float) -> None:
        self.commits.append(seconds)

    def not_committed(self) -> None:
        self.failures += 1


class Times:
    """A clock that the test sets."""

    at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


def watch() -> tuple[StoreWatch, Times, list[float], Counted]:
    """A watch, its clock, what it was told as slow, and what it passed on."""
    told: list[float] = []
    now_s, counted = Times(), Counted()
    return StoreWatch(counted, now_s=now_s, on_slow=told.append), now_s, told, counted


def test_slowest_commit_is_that_of_the_last_minute() -> None:
    store, now_s, _, counted = watch()
    assert store.view().slowest_commit_s is None
    for at_s, seconds in ((0.0, 0.2), (10.0, 0.05), (20.0, 0.1), (30.0, 0.01)):
        now_s.at_s = at_s
        store.committed(decisions=1, seconds=seconds)
    seen = []
    for at_s in (59.9, 60.0, 79.9, 80.0, 90.0):
        now_s.at_s = at_s
        seen.append(store.view().slowest_commit_s)
    assert seen == [0.2, 0.1, 0.1, 0.01, None]
    assert counted.commits == [0.2, 0.05, 0.1, 0.01]


def test_slow_commit_is_told_once_a_minute() -> None:
    store, now_s, told, _ = watch()
    for at_s, seconds in ((0.0, SLOW_COMMIT_S), (1.0, 0.3), (30.0, 0.9), (60.9, 0.5), (61.0, 0.4), (62.0, 0.7)):
        now_s.at_s = at_s
        store.committed(decisions=1, seconds=seconds)
    assert told == [0.3, 0.4]


def test_store_fails_until_it_takes_the_next_transaction() -> None:
    store, _, _, counted = watch()
    store.not_committed()
    store.not_committed()
    assert (store.view().failures, store.view().is_failing, counted.failures) == (2, True, 2)
    store.committed(decisions=1, seconds=0.01)
    assert (store.view().failures, store.view().is_failing) == (2, False)


async def _names(rig: Rig) -> list[tuple[str, str]]:
    page = await rig.store.events(EventQuery(limit=256))
    return [(event.event_type, event.value) for event in page.events]


async def test_each_start_is_recorded_with_its_epoch(rig: Rig) -> None:
    await settle()
    await rig.restart()
    await settle()
    assert await _names(rig) == [("admission_started", "1"), ("admission_started", "2")]
    assert (rig.engine.snapshot().controller_epoch, rig.engine.snapshot().started_at) == (2, rig.clock.now().utc)


async def test_slow_store_is_recorded_and_shown(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await settle()
    monkeypatch.setattr("admission.store_watch.SLOW_COMMIT_S", -1.0)
    await rig.lane()
    await settle()
    assert "store_slow" in [name for name, _ in await _names(rig)]
    assert rig.engine.snapshot().store.slowest_commit_s is not None


async def test_failing_store_is_shown_until_it_is_back(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await rig.submit()
    assert rig.engine.snapshot().store.is_failing
    rig.store.fail_writes = False
    await rig.submit()
    assert not rig.engine.snapshot().store.is_failing


def _lines(*events: Event) -> list[dict[str, object]]:
    with structlog.testing.capture_logs() as lines:
        for event in events:
            log_event(event)
    return [dict(line) for line in lines]


def test_events_of_lanes_models_and_admission_are_lines_and_those_of_tasks_are_not() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    task, lane, model = TaskId("a"), LaneId("lane-anisora"), Model("anisora")
    lines = _lines(
        Event(event_type="admission_started", created_at=at, value="3"),
        Event(event_type="quota_denied", created_at=at, model=model, value="600", reason="none left"),
        Event(event_type="accepted", created_at=at, task_id=task, model=model),
        Event(event_type="lane_lost", created_at=at, task_id=task, attempt=2, lane_id=lane, model=model, value="1"),
    )
    assert lines == [
        {"event": "admission_started", "log_level": "info", "value": "3"},
        {"event": "quota_denied", "log_level": "warning", "model": "anisora", "value": "600", "reason": "none left"},
        {"event": "lane_lost", "log_level": "warning", "task": "a", "attempt": 2, "lane": "lane-anisora", "model": "anisora", "value": "1"},
    ]
