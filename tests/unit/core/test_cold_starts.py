"""What is recorded of lanes that cannot become warm."""

from __future__ import annotations

from admission.core.lanes import StartCause, StartFailure
from admission.core.tasks import LaneId
from tests.harness.core import ANISORA, World

MISSING = StartFailure(cause=StartCause.WEIGHTS_MISSING, reason="no folder", attempts=1)
KILLED = StartFailure(cause=StartCause.PROCESS_DIED, reason="signal 9", attempts=2)


def fails(world: World, lane: LaneId, failure: StartFailure | None) -> None:
    """The lane says that it could not become warm."""
    world.report(lane, warm=False, resident_model=None, start_failure=failure)


def recorded(world: World) -> list[tuple[str, str, int]]:
    """Cause, reason and try of every event so far."""
    return [(event.value, event.reason, event.attempt) for event in world.kept if event.event_type == "cold_start_failed"]


def test_a_failed_start_is_recorded_once_when_the_lane_tries_again_and_again() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    for attempts in range(1, 200):
        fails(world, lane, StartFailure(cause=StartCause.WEIGHTS_MISSING, reason=f"no folder at {attempts}", attempts=attempts))
    assert recorded(world) == [("weights_missing", "no folder at 1", 1)]


def test_every_cause_is_recorded_once_when_they_alternate() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    for failure in (MISSING, KILLED, MISSING, KILLED):
        fails(world, lane, failure)
    assert recorded(world) == [("weights_missing", "no folder", 1), ("process_died", "signal 9", 2)]


def test_the_same_cause_is_recorded_again_when_the_lane_was_warm_between() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    fails(world, lane, MISSING)
    # Not warm and nothing failed: its process is being replaced. That ends no streak.
    fails(world, lane, None)
    fails(world, lane, MISSING)
    assert len(recorded(world)) == 1
    world.report(lane, warm=True, resident_model=ANISORA, start_failure=None)
    fails(world, lane, MISSING)
    assert len(recorded(world)) == 2


def test_the_same_cause_is_recorded_again_when_the_lane_s_own_process_is_a_new_one() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    fails(world, lane, MISSING)
    world.report(lane, boot_id="boot-2", warm=False, resident_model=None, start_failure=MISSING)
    assert len(recorded(world)) == 2


def test_the_lane_is_ready_with_the_duration_when_it_becomes_warm_after_failures() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    fails(world, lane, MISSING)
    world.elapsed_s += 7
    world.report(lane, warm=True, resident_model=ANISORA, start_failure=None)
    assert [event.value for event in world.kept if event.event_type == "lane_ready"][-1] == "7.000"
