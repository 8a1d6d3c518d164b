"""When a console is told of the state, and what of a state is a problem."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1.task_pb2 import FallbackReason, LaneMode, TaskState
from warmlane.generation.v1 import generation_pb2 as generation

from http_bridge.console.overview import LOOK_S, Overview, console_snapshot
from http_bridge.console.problems import KINDS
from http_bridge.schemas_console import ConsoleAway, ConsoleSnapshot, ProblemCode
from runtime.errors import ErrorCode, ServiceError
from tests.harness.access_double import stamp
from tests.harness.admission_double import make_task

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]


def healthy() -> operator.GetSnapshotResponse:
    """One lane, its model served by it, nothing to say of it."""
    lane = operator.LaneSnapshot(
        lane_id="lane-anisora",
        models=["anisora"],
        lane_mode=LaneMode.LANE_MODE_DEDICATED,
        availability=operator.AVAILABILITY_READY,
        warm=True,
        memory_budget_bytes=20 * 1024**3,
    )
    lane.last_report_age.FromSeconds(1)
    made = operator.GetSnapshotResponse(
        controller_epoch=3,
        taken_at=stamp(NOW),
        started_at=stamp(NOW - timedelta(hours=1)),
        lanes=[lane],
        queues=[operator.QueueSnapshot(model="anisora", max_depth=25, served=True)],
        degraded=operator.DegradedSnapshot(max_depth=25),
        store=operator.StoreSnapshot(),
    )
    made.degraded.max_wait.FromSeconds(30)
    made.store.slowest_commit.FromMilliseconds(4)
    return made


def _store_fails(one: operator.GetSnapshotResponse) -> None:
    one.store.failing, one.store.failures = True, 4


def _store_is_slow(one: operator.GetSnapshotResponse) -> None:
    one.store.slowest_commit.FromMilliseconds(251)


def _is_full(one: operator.GetSnapshotResponse) -> None:
    one.degraded.depth = 25


def _was_started(one: operator.GetSnapshotResponse) -> None:
    one.started_at.CopyFrom(stamp(NOW - timedelta(seconds=299)))


def _goes_to_the_pool(one: operator.GetSnapshotResponse) -> None:
    one.queues[0].fallback_reason = FallbackReason.FALLBACK_REASON_CAPACITY


def _was_sent_to_the_pool(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].lane_mode = LaneMode.LANE_MODE_DEGRADED_SHARED
    one.queues[0].fallback_reason, one.queues[0].manual_fallback = FallbackReason.FALLBACK_REASON_MANUAL, True


def _has_no_quota(one: operator.GetSnapshotResponse) -> None:
    one.queues[0].quota_denied_until.CopyFrom(stamp(NOW + timedelta(minutes=5)))


def _fills(one: operator.GetSnapshotResponse) -> None:
    one.queues[0].depth = 21


def _is_cold(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].availability, one.lanes[0].reason = operator.AVAILABILITY_COLD, "no report for 12 s"


def _cannot_start(one: operator.GetSnapshotResponse) -> None:
    _is_cold(one)
    failure = generation.StartFailure(cause=generation.START_FAILURE_CAUSE_WEIGHTS_MISSING, reason="no folder", attempts=2)
    one.lanes[0].start_failure.CopyFrom(failure)


def _is_drained(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].availability, one.lanes[0].drained = operator.AVAILABILITY_COLD, True


def _waits_for_files(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].object_store_failure = "GenericError"


def _ran_out(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].last_memory.out_of_memory.add(phase="decode", placement="resident_all")


def _leaks(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].last_memory.drift_bytes = 64 * 1024**2 + 1


def _goes_without(one: operator.GetSnapshotResponse) -> None:
    one.lanes[0].retired_placements.add(model="anisora", placement="resident_all")


def _nothing(one: operator.GetSnapshotResponse) -> None:
    """As it is."""


@pytest.mark.parametrize(
    ("happens", "codes"),
    [
        (_nothing, []),
        (_store_fails, ["store_fails"]),
        (_store_is_slow, ["store_slow"]),
        (_is_full, ["overloaded"]),
        (_was_started, ["admission_restarted"]),
        (_goes_to_the_pool, ["fallback"]),
        (_was_sent_to_the_pool, ["manual_fallback"]),
        (_has_no_quota, ["quota_denied"]),
        (_fills, ["queue_nearly_full"]),
        (_is_cold, ["model_not_served", "lane_not_ready"]),
        (_cannot_start, ["model_not_served", "cold_start_fails"]),
        (_is_drained, ["model_not_served", "lane_drained"]),
        (_waits_for_files, ["object_store_away"]),
        (_ran_out, ["out_of_memory"]),
        (_leaks, ["memory_drifts"]),
        (_goes_without, ["placement_retired"]),
    ],
)
def test_problem_is_named_when_something_is_wrong(happens: Callable[[operator.GetSnapshotResponse], None], codes: list[str]) -> None:
    snapshot = healthy()
    happens(snapshot)
    assert [one.code for one in console_snapshot(snapshot, []).problems] == codes


def test_every_problem_has_a_runbook_that_is_there() -> None:
    page = (ROOT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")
    assert {kind.runbook for kind in KINDS.values()} <= set(re.findall(r"^### (Warmlane\w+)$", page, flags=re.MULTILINE))
    assert set(KINDS) == set(get_args(ProblemCode))


def test_tasks_are_shown_without_what_was_asked_for() -> None:
    task = make_task("a" * 32, state=TaskState.TASK_STATE_LEASED, lane_id="lane-anisora", attempt=2, progress=40)
    task.fallback_reason = FallbackReason.FALLBACK_REASON_QUOTA
    shown = console_snapshot(healthy(), [task])
    assert "a lake" not in shown.model_dump_json()
    (one,) = shown.tasks
    assert (one.model, one.status, one.lane, one.attempt, one.progress, one.fallback_reason) == (
        "anisora", "processing", "lane-anisora", 2, 40, "quota",
    )  # fmt: skip


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.at_s + seconds, woken))
        await woken.wait()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        raise NotImplementedError

    async def pass_by(self, seconds: float) -> None:
        """So much time passes, and who waited for it goes on."""
        self.at_s += seconds
        due, self._sleepers = (
            [one for one in self._sleepers if one[0] <= self.at_s],
            [one for one in self._sleepers if one[0] > self.at_s],
        )
        for _, woken in due:
            woken.set()
        for _ in range(5):
            await asyncio.sleep(0)


class Admission:
    """What is looked at."""

    def __init__(self) -> None:
        self.snapshot = healthy()
        self.failure: Exception | None = None
        self.looks = 0

    async def look(self) -> ConsoleSnapshot:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return console_snapshot(self.snapshot, [])


async def test_state_is_told_when_it_changes_and_seldom_when_it_does_not() -> None:
    admission, clock, news = Admission(), Clock(), asyncio.Event()
    overview = Overview(admission.look, clock)
    async with overview.watched(news):
        await clock.pass_by(0)
        assert isinstance(overview.state, ConsoleSnapshot)
        news.clear()
        for second in range(1, 15):
            # These run on by themselves.
            admission.snapshot.taken_at.CopyFrom(stamp(NOW + timedelta(seconds=second)))
            admission.snapshot.lanes[0].last_report_age.FromSeconds(second % 5)
            await clock.pass_by(LOOK_S)
            assert not news.is_set(), second
        await clock.pass_by(LOOK_S)
        assert news.is_set(), "after 15 s all is told again"
        news.clear()
        admission.snapshot.lanes[0].progress, admission.snapshot.lanes[0].task_id = 5, "a"
        await clock.pass_by(LOOK_S)
        assert news.is_set()
        news.clear()
        admission.snapshot.lanes[0].last_report_age.FromSeconds(11)
        await clock.pass_by(LOOK_S)
        assert news.is_set(), "a lane that went silent is news"
    assert admission.looks == 18


@pytest.mark.parametrize("failure", [ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Away."), RuntimeError("a bug")])
async def test_console_is_told_that_admission_is_away_once_and_of_its_return(failure: Exception) -> None:
    admission, clock, news = Admission(), Clock(), asyncio.Event()
    overview = Overview(admission.look, clock)
    async with overview.watched(news):
        await clock.pass_by(0)
        news.clear()
        admission.failure = failure
        await clock.pass_by(LOOK_S)
        assert news.is_set()
        assert isinstance(overview.state, ConsoleAway)
        news.clear()
        await clock.pass_by(LOOK_S)
        assert not news.is_set()
        admission.failure = None
        await clock.pass_by(LOOK_S)
        assert news.is_set()
        assert isinstance(overview.state, ConsoleSnapshot)


async def test_second_watcher_sees_the_state_at_once_and_the_last_one_ends_the_looks() -> None:
    admission, clock, first, second = Admission(), Clock(), asyncio.Event(), asyncio.Event()
    overview = Overview(admission.look, clock)
    async with overview.watched(first):
        await clock.pass_by(0)
        async with overview.watched(second):
            assert second.is_set()
            await clock.pass_by(LOOK_S)
            assert admission.looks == 2
        await clock.pass_by(LOOK_S)
        assert admission.looks == 3
    assert overview.state is None
    await clock.pass_by(10 * LOOK_S)
    assert admission.looks == 3
    async with overview.watched(first):
        await clock.pass_by(0)
        assert admission.looks == 4
