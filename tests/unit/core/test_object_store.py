"""What is recorded of lanes that wait for the object store."""

from __future__ import annotations

from tests.harness.core import ANISORA, World


def recorded(world: World) -> list[tuple[str, str]]:
    """Name and reason of every such event so far."""
    return [(event.event_type, event.reason) for event in world.kept if event.event_type.startswith("object_store_")]


def test_waiting_is_recorded_once_and_its_end_once_when_reports_repeat_it() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    for reason in ("", "no route", "no route", "still none", "", ""):
        world.report(lane, object_store_failure=reason)
    assert recorded(world) == [("object_store_away", "no route"), ("object_store_back", "")]
    world.report(lane, object_store_failure="again")
    assert recorded(world)[2:] == [("object_store_away", "again")]


def test_waiting_is_over_when_the_lane_s_process_is_a_new_one() -> None:
    world = World()
    lane = world.attach("lane-anisora", ANISORA)
    world.report(lane, object_store_failure="no route")
    world.report(lane, boot_id="boot-2", object_store_failure="")
    assert recorded(world) == [("object_store_away", "no route"), ("object_store_back", "")]
