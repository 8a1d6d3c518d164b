"""How weights lie in host memory."""

from __future__ import annotations

import pytest

from runtime.fit.cost import Rung
from runtime.fit.host import HostRoom, host_reserve_bytes, host_room
from runtime.lane import residency
from tests.unit.fit.figures import GIB, limits


@pytest.mark.parametrize(
    ("host_gib", "pinned_gib", "expected"),
    # 40 GiB of weights and 6 that the host keeps.
    [(46.0, 40.0, HostRoom.PINNED), (46.0, 39.0, HostRoom.PAGED), (45.0, 40.0, HostRoom.MAPPED)],
)
def test_room_is_told_when_a_host_is_large_or_small(host_gib: float, pinned_gib: float, expected: HostRoom) -> None:
    rung = Rung(placement="resident", phases=(), host_bytes=40 * GIB, pinned_bytes=40 * GIB)
    assert host_room(rung, limits(21.0, host_gib=host_gib, pinned_gib=pinned_gib)) is expected


def test_nothing_needs_pinning_when_the_weights_stay_on_the_gpu() -> None:
    rung = Rung(placement="resident_all", phases=(), host_bytes=40 * GIB, pinned_bytes=0)
    assert host_room(rung, limits(79.0, pinned_gib=0.0)) is HostRoom.PINNED


@pytest.mark.parametrize("total_gib", [1, 16, 24, 64])
def test_reserve_is_the_lanes_own_when_plan_tells_of_it(total_gib: int) -> None:
    assert host_reserve_bytes(total_gib * GIB) == residency.host_reserve_bytes(total_gib * GIB)
