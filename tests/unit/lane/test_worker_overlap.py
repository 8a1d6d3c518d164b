"""Two attempts in one pipeline process: whose time runs, who is spared, what is left. The process is a fake, time is virtual."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from runtime.lane.child_process import ChildProcess
from runtime.lane.child_protocol import REPLACE_EXIT_CODE, Cancel, GpuFreed, Release, Render, RenderEnded, ReplacementNeeded
from runtime.lane.outcome import FailureCode, MemoryRecord, Outcome, unmeasured
from runtime.lane.state import Attempt, StopReason
from tests.harness.lane_child import Children, in_virtual_time
from tests.harness.running_worker import ATTEMPT, DEADLINE_S, GRACE_S, WorkerBench, code_of, running_worker

OTHER = Attempt(task_id="b", number=1)
RECORD: MemoryRecord = replace(unmeasured(""), device="cpu", placement="resident")
SPARED_S = 30.0
STORE_S = 300.0


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    """Takes the place of real processes."""
    fakes = Children()
    monkeypatch.setattr(ChildProcess, "start", fakes.start)
    return fakes


def lost(attempt: Attempt) -> RenderEnded:
    """The process ended the attempt; how does not matter."""
    return RenderEnded(attempt=attempt, outcome=Outcome(memory=RECORD))


async def two(bench: WorkerBench) -> tuple[asyncio.Task[Outcome], asyncio.Task[Outcome]]:
    """The first attempt is finished from second 100 on, the other rendered."""
    first = bench.render()
    await bench.at(100)
    bench.child.says(GpuFreed(attempt=ATTEMPT, memory=RECORD))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return first, bench.render(OTHER)


@in_virtual_time
async def test_next_attempt_is_given_when_the_gpu_is_free(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        await bench.at(101)
        assert bench.freed == [ATTEMPT]
        assert [command.attempt for command in bench.child.commands if isinstance(command, Render)] == [ATTEMPT, OTHER]
        bench.child.says(lost(OTHER))
        bench.child.says(lost(ATTEMPT))
        assert (await first).memory == (await second).memory == RECORD


@in_virtual_time
async def test_next_attempt_is_refused_when_the_gpu_is_not_free(children: Children) -> None:
    async with running_worker(children) as bench:
        first = bench.render()
        await bench.at(1)
        with pytest.raises(RuntimeError, match="the GPU already"):
            await bench.render(OTHER)
        bench.child.says(lost(ATTEMPT))
        await first


@in_virtual_time
async def test_time_of_the_second_stands_still_when_it_waits_for_the_first(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        # It renders from 100 to 300 s, and waits until 800 s.
        await bench.at(300)
        bench.child.says(GpuFreed(attempt=OTHER, memory=RECORD))
        await bench.at(800)
        bench.child.says(lost(ATTEMPT))
        await first
        # 900 s, less the 200 s that it had rendered.
        await bench.at(800 + DEADLINE_S - 200 - 1)
        assert not any(isinstance(command, Cancel) for command in bench.child.commands)
        await bench.at(800 + DEADLINE_S - 200 + 1)
        assert bench.child.commands[-1] == Cancel(attempt=OTHER)
        bench.child.says(lost(OTHER))
        await second


@in_virtual_time
async def test_what_is_finished_has_a_little_time_when_the_render_beside_it_is_stuck(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        await bench.at(200)
        bench.worker.cancel(OTHER, StopReason.DEADLINE)
        await bench.at(200 + GRACE_S + SPARED_S - 1)
        assert bench.child.killed_s is None
        bench.child.says(lost(ATTEMPT))
        assert (await first).memory == RECORD
        assert code_of(await second) is FailureCode.DEADLINE_EXCEEDED
        killed_s = children.all[0].killed_s
    assert killed_s is not None
    assert 200 + GRACE_S + SPARED_S - 1 <= killed_s <= 200 + GRACE_S + SPARED_S + 1


@in_virtual_time
async def test_both_end_when_the_render_is_stuck_and_the_other_is_not_finished_in_that_time(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        await bench.at(200)
        bench.worker.cancel(OTHER, StopReason.UNWANTED)
        # It is past its load.
        bench.worker.cancel(OTHER, StopReason.DEADLINE)
        ends = await first, await second
    assert [code_of(end) for end in ends] == [FailureCode.LANE_LOST, FailureCode.DEADLINE_EXCEEDED]
    assert ends[0].memory == RECORD
    assert "killed" in ends[1].memory.unmeasured_reason


@in_virtual_time
async def test_render_is_spared_when_an_unwanted_clip_hangs_in_the_store_until_its_deadline_and_more(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        await bench.at(150)
        bench.worker.cancel(ATTEMPT, StopReason.UNWANTED)
        await bench.at(700)
        bench.child.says(GpuFreed(attempt=OTHER, memory=RECORD))
        late_s = DEADLINE_S + GRACE_S + STORE_S
        await bench.at(late_s - 2)
        assert bench.child.killed_s is None
        assert not first.done()
        await bench.at(late_s + 2)
        assert children.all[0].killed_s is not None
        assert code_of(await first) is FailureCode.DEADLINE_EXCEEDED
        outcome = await second
    assert (code_of(outcome), outcome.memory) == (FailureCode.LANE_LOST, RECORD)


@in_virtual_time
async def test_both_are_killed_at_once_when_the_lane_stops_and_they_do_not_end(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        await bench.at(200)
        for attempt in (ATTEMPT, OTHER):
            bench.worker.cancel(attempt, StopReason.SHUTDOWN)
        assert {code_of(await first), code_of(await second)} == {FailureCode.CANCELLED}
        killed_s = children.all[0].killed_s
    assert killed_s is not None
    assert killed_s <= 204


@in_virtual_time
async def test_only_the_one_that_asked_is_handed_on_when_the_process_is_replaced(children: Children) -> None:
    async with running_worker(children) as bench:
        first, second = await two(bench)
        await bench.at(200)
        released = Release(model="anisora", weight_bytes=1, residue_bytes=1, release_s=0.1)
        bench.child.says(lost(ATTEMPT))
        bench.child.says(ReplacementNeeded(attempt=OTHER, released=released))
        assert (await first).memory == RECORD
        children.all[0].exits(REPLACE_EXIT_CODE)
        await bench.at(210)
        (again,) = [command for command in bench.child.commands if isinstance(command, Render)]
        assert (again.attempt, again.released) == (OTHER, released)
        bench.child.says(lost(OTHER))
        await second
