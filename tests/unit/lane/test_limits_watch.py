"""Another process comes to the GPU and goes: the agent hears of both, and not of every library."""

from __future__ import annotations

from dataclasses import replace

from runtime.lane.limits_watch import LimitsWatch
from tests.harness.lane_memory import FakeMemory

MIB = 1024**2
TOTAL = 2048 * MIB


def test_the_agent_hears_when_memory_was_taken_and_when_it_is_back() -> None:
    memory = FakeMemory(total_bytes=TOTAL)
    watch = LimitsWatch(memory, memory.limits())
    memory.free_bytes = TOTAL
    assert watch.news() is None
    memory.free_bytes = TOTAL - 512 * MIB
    assert watch.news() == replace(memory.limits(), other_bytes=512 * MIB)
    assert watch.news() is None
    memory.free_bytes = TOTAL
    assert watch.news() == memory.limits()
    assert watch.news() is None


def test_the_agent_hears_nothing_of_what_libraries_load() -> None:
    memory = FakeMemory(total_bytes=TOTAL)
    watch = LimitsWatch(memory, memory.limits())
    memory.free_bytes = TOTAL - 40 * MIB
    assert watch.news() is None
    # In small steps it adds up all the same.
    memory.free_bytes = TOTAL - 80 * MIB
    assert watch.news() == replace(memory.limits(), other_bytes=80 * MIB)


def test_what_torch_holds_is_within_reach() -> None:
    memory = FakeMemory(total_bytes=TOTAL)
    watch = LimitsWatch(memory, memory.limits())
    memory.free_bytes, memory.alive_bytes = 48 * MIB, 2000 * MIB
    assert watch.news() is None
