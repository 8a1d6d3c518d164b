"""Seeded histories of the whole of admission with its lanes: a short form here, 10,000 in `make test-all`, any range by `make simulate`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from admission.core.tasks import Event, LaneId
from tests.simulation.faults import leases, queues
from tests.simulation.plan import Plan
from tests.simulation.simulate import failure, run, shrink
from tests.simulation.world import World, play, seams

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def histories() -> list[World]:
    """The first of all histories, played once for the tests that look at them."""
    with seams():
        return [play(seed) for seed in range(30)]


def test_invariants_hold_when_anything_goes_wrong(histories: list[World]) -> None:
    failed = next((failure(seed, world) for seed, world in enumerate(histories) if world.violations), None)
    assert failed is None, str(failed)


@pytest.mark.parametrize("chunk", range(2, 4))
def test_invariants_hold_when_other_things_go_wrong(chunk: int) -> None:
    # With one seed that is played twice, and must be the same history.
    failed = run(range(chunk * 15, (chunk + 1) * 15))
    assert failed is None, str(failed)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunk", range(50))
def test_invariants_hold_when_much_goes_wrong(chunk: int) -> None:
    failed = run(range(1000 + chunk * 200, 1000 + (chunk + 1) * 200))
    assert failed is None, str(failed)


def test_history_is_the_same_when_its_seed_is_played_by_another_process() -> None:
    # The order of sets depends on the hash seed of the process: nothing may depend on it.
    script = "from tests.simulation.world import play, seams\nwith seams():\n    print([play(seed).digest for seed in range(8)])"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=_ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


def test_story_and_command_are_told_when_a_seed_fails() -> None:
    with queues.depth_26():
        failed = run(range(50))
    assert failed is not None
    assert "26 are held" in str(failed)
    assert f"make simulate SEEDS={failed.seed}..{failed.seed}" in str(failed)
    assert "admission-1 serves, epoch 1" in str(failed)


def test_needless_steps_are_left_out_when_a_failure_is_shrunk() -> None:
    with leases.memory_recorded_twice():
        failed = run(range(20))
        assert failed is not None
        shorter = shrink(failed.seed)
    assert shorter is not None
    assert len(shorter.story) <= len(failed.story)
    assert "two memory records" in shorter.violations[0]


def test_every_kind_of_step_comes_when_many_histories_are_planned() -> None:
    kinds = {step.kind for seed in range(60) for step in Plan.of(seed).steps}
    assert len(kinds) >= 30


def test_much_happens_when_histories_are_played(histories: list[World]) -> None:
    # A simulation in which nothing is accepted, refused, lost or cancelled proves nothing.
    seen: dict[str, int] = {}
    for world in histories:
        for kind in [event.event_type for event in world.disk.events]:
            seen[kind] = seen.get(kind, 0) + 1
        for answer in [wanted.answer for wanted in world.callers.wanted]:
            seen[answer] = seen.get(answer, 0) + 1
        if any(learned.excesses for learned in world.disk.learned.values()):
            seen["learned"] = seen.get("learned", 0) + 1
        seen["epochs"] = seen.get("epochs", 0) + world.disk.epoch
        seen["beside"] = seen.get("beside", 0) + _begun_beside_another(world.disk.events)
    for kind in ("placement_retired", "residency_changed", "memory_drift"):
        assert seen.get(kind, 0) >= 1, f"{kind}: {seen}"
    assert "learned" in seen, f"nothing was learned: {seen}"
    for kind in ("accepted", "overloaded", "refused", "unavailable", "fallback_activated", "lane_lost", "memory_record", "ended"):
        assert seen.get(kind, 0) >= 10, f"{kind}: {seen}"
    assert seen["epochs"] > 60
    assert seen["beside"] > 100


def _begun_beside_another(events: Iterable[Event]) -> int:
    """Attempts that were given to a lane that was still finishing another one."""
    count = 0
    on_lanes: dict[LaneId | None, set[object]] = {}
    for event in events:
        there, attempt = on_lanes.setdefault(event.lane_id, set()), (event.task_id, event.attempt)
        if event.event_type == "attempt_started":
            count += bool(there)
            there.add(attempt)
        elif event.event_type == "memory_record":
            there.discard(attempt)
    return count
