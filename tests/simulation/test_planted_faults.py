"""The simulation finds what it is for: each planted fault is caught within 200 seeds."""

from __future__ import annotations

import pytest

from tests.simulation.planted import FAULTS, Fault
from tests.simulation.simulate import compare
from tests.simulation.world import World, play, seams

_SEEDS = 200


def _caught(seed: int) -> World | None:
    world = play(seed)
    if not world.violations and seed < 3:
        compare(world, play(seed))
    return world if world.violations else None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_is_caught_when_it_is_planted(fault: Fault) -> None:
    with fault.plant(), seams():
        world = next(filter(None, map(_caught, sorted(range(_SEEDS), key=lambda seed: seed != fault.seed))), None)
    assert world is not None, "not caught"
    assert any(fault.caught_as in violation for violation in world.violations), world.violations
