"""The policy of the slot and of host memory: numbers in, plans out."""

from __future__ import annotations

import pytest

from runtime.lane.residency import (
    HeldWeights,
    HostPlan,
    Move,
    Verification,
    WeightRoom,
    host_reserve_bytes,
    is_host_poor,
    plan_host,
    plan_moves,
    weight_room,
)

GIB = 1024**3
ROOM = WeightRoom(host_bytes=100, pinned_bytes=80)


def held(model: str, host_bytes: int, pinned_bytes: int = 0) -> HeldWeights:
    """Weights."""
    return HeldWeights(model=model, host_bytes=host_bytes, pinned_bytes=pinned_bytes)


def measured(**changes: int) -> Verification:
    """A release after which nothing is left, but for what a test says."""
    figures = {"residue_bytes": 0, "residue_allowance_bytes": 10, "shortfall_bytes": 0, "shortfall_allowance_bytes": 50} | changes
    return Verification(is_alive=False, **figures)


def test_the_plan_releases_before_it_loads_when_another_is_resident() -> None:
    assert plan_moves(resident="a", wanted="b", is_at_hand=False) == (Move.RELEASE, Move.READ, Move.ASSEMBLE)


def test_the_plan_reads_nothing_when_the_weights_are_at_hand() -> None:
    assert plan_moves(resident="a", wanted="b", is_at_hand=True) == (Move.RELEASE, Move.ASSEMBLE)


def test_the_plan_is_empty_when_the_model_is_resident() -> None:
    assert plan_moves(resident="a", wanted="a", is_at_hand=True) == ()


def test_the_plan_only_releases_when_nothing_is_wanted() -> None:
    assert plan_moves(resident="a", wanted="", is_at_hand=False) == (Move.RELEASE,)


def test_the_memory_is_back_when_allocator_and_driver_say_so_within_their_allowances() -> None:
    found = measured(residue_bytes=10, shortfall_bytes=50)
    assert found.is_back
    assert found.recorded_bytes == 0
    assert found.reason == ""


def test_the_memory_is_not_back_when_the_allocator_has_tensors_left() -> None:
    found = measured(residue_bytes=11)
    assert not found.is_back
    assert found.recorded_bytes == 11
    assert "11 bytes of tensors" in found.reason


def test_the_memory_is_not_back_when_only_the_driver_misses_it() -> None:
    # The allocator knows nothing of what a library beside it keeps.
    found = measured(residue_bytes=3, shortfall_bytes=51)
    assert not found.is_back
    assert found.recorded_bytes == 51
    assert "driver" in found.reason


def test_the_memory_is_not_back_when_something_holds_the_pipeline() -> None:
    found = Verification(is_alive=True, residue_bytes=0, residue_allowance_bytes=10)
    assert not found.is_back
    assert "holds" in found.reason


@pytest.mark.parametrize(("total", "reserve"), [(4 * GIB, 1 * GIB), (16 * GIB, 4 * GIB), (64 * GIB, 6 * GIB), (768 * GIB, 6 * GIB)])
def test_a_quarter_stays_free_when_the_host_is_small(total: int, reserve: int) -> None:
    assert host_reserve_bytes(total) == reserve


def test_the_room_is_the_machine_s_less_its_reserve_when_nobody_else_uses_it() -> None:
    room = weight_room(total_bytes=64 * GIB, available_bytes=70 * GIB, held_bytes=0, pinned_limit_bytes=48 * GIB)
    assert room == WeightRoom(host_bytes=58 * GIB, pinned_bytes=48 * GIB)


def test_the_room_is_less_when_other_lanes_of_the_machine_use_memory() -> None:
    # 20 available and 10 that this process could drop, less 6.
    room = weight_room(total_bytes=64 * GIB, available_bytes=20 * GIB, held_bytes=10 * GIB, pinned_limit_bytes=0)
    assert room.host_bytes == 24 * GIB


def test_there_is_no_room_rather_than_less_when_memory_is_short() -> None:
    assert weight_room(total_bytes=8 * GIB, available_bytes=GIB, held_bytes=0, pinned_limit_bytes=-1) == WeightRoom(
        host_bytes=0, pinned_bytes=0
    )


@pytest.mark.parametrize(("size", "poor"), [(100, False), (101, True)])
def test_the_host_is_poor_when_one_model_alone_does_not_fit(size: int, poor: bool) -> None:
    assert is_host_poor(held("a", size), ROOM) is poor


def test_everything_stays_when_there_is_room() -> None:
    plan = plan_host(held("b", 60), [held("a", 40)], ROOM)
    assert plan == HostPlan(drops=(), is_mapped=False, reason="host memory has room")


def test_the_model_used_longest_ago_leaves_first_when_there_is_no_room_for_all() -> None:
    plan = plan_host(held("d", 50), [held("a", 20), held("b", 30), held("c", 20)], ROOM)
    assert plan.drops == ("a",)
    assert "d beside a" in plan.reason


def test_more_leave_when_one_does_not_suffice() -> None:
    assert plan_host(held("c", 90), [held("a", 20), held("b", 30)], ROOM).drops == ("a", "b")


def test_a_model_leaves_when_it_keeps_the_wanted_one_from_being_pinned() -> None:
    assert plan_host(held("b", 40, 50), [held("a", 40, 31)], ROOM).drops == ("a",)
    assert plan_host(held("b", 40, 50), [held("a", 40, 30)], ROOM).drops == ()


def test_unpinned_weights_stay_when_the_wanted_ones_take_all_that_may_be_pinned() -> None:
    assert plan_host(held("b", 90, 120), [held("a", 10, 0)], ROOM).drops == ()


def test_the_weights_are_mapped_and_the_page_cache_is_left_to_them_when_the_host_is_poor() -> None:
    plan = plan_host(held("b", 101), [held("a", 10)], ROOM)
    assert plan.is_mapped
    assert plan.drops == ("a",)
    assert "room for 100" in plan.reason
