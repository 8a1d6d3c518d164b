"""When the pipeline's process is killed, and what the attempt that it had ends with; the process is a fake and time is virtual."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.fit.cost import WorkerMemory
from runtime.lane.child_process import ChildProcess
from runtime.lane.child_protocol import (
    REPLACE_EXIT_CODE,
    LimitsChanged,
    LoadFailed,
    Loading,
    Progressed,
    Release,
    Render,
    RenderEnded,
    ReplacementNeeded,
    ResidentChanged,
    Started,
)
from runtime.lane.loading import LoadProgress
from runtime.lane.outcome import Failure, FailureCode, Outcome, OutOfMemory, Phase, unmeasured
from runtime.lane.start_failure import StartCause
from runtime.lane.state import StopReason
from tests.harness.lane_child import Children, FakeChild, in_virtual_time
from tests.harness.lane_memory import FakeMemory
from tests.harness.running_worker import ATTEMPT, DEADLINE_S, GRACE_S, LOAD_DEADLINE_S, cancelled, code_of, running_worker, told


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    """Takes the place of real processes."""
    fakes = Children()
    monkeypatch.setattr(ChildProcess, "start", fakes.start)
    return fakes


@in_virtual_time
async def test_an_unwanted_load_is_killed_when_the_attempts_deadline_passes(children: Children) -> None:
    # The deadline was ignored because the attempt was unwanted already, and an unwanted load was never killed: the lane reported work for
    # ever, and admission never had it idle again.
    async with running_worker(children) as bench:
        rendering, child = bench.render(), bench.child
        await bench.at(5)
        bench.worker.cancel(ATTEMPT, StopReason.UNWANTED)
        outcome = await rendering
    assert child.killed_s is not None
    assert DEADLINE_S <= child.killed_s <= DEADLINE_S + GRACE_S
    assert code_of(outcome) is FailureCode.DEADLINE_EXCEEDED
    assert "killed" in outcome.memory.unmeasured_reason


@in_virtual_time
async def test_an_unwanted_load_is_killed_when_the_lane_stops(children: Children) -> None:
    # The shutdown was ignored because the attempt was unwanted already.
    async with running_worker(children) as bench:
        rendering, child = bench.render(), bench.child
        await bench.at(5)
        bench.worker.cancel(ATTEMPT, StopReason.UNWANTED)
        await bench.at(50)
        bench.worker.cancel(ATTEMPT, StopReason.SHUTDOWN)
        outcome = await rendering
    assert child.killed_s is not None
    assert 50 <= child.killed_s <= 53
    assert outcome.failure == Failure(code=FailureCode.CANCELLED, message="The lane was stopped.")


@in_virtual_time
async def test_an_unwanted_load_is_spared_when_it_ends_before_the_deadline(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering, child = bench.render(), bench.child
        child.says(told(Phase.LOADING))
        await bench.at(5)
        bench.worker.cancel(ATTEMPT, StopReason.UNWANTED)
        await bench.at(DEADLINE_S - 1)
        child.says(cancelled())
        assert code_of(await rendering) is FailureCode.CANCELLED
        await bench.at(DEADLINE_S + 100)
        assert child.killed_s is None


@in_virtual_time
async def test_an_unwanted_render_is_killed_when_the_grace_is_over(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering, child = bench.render(), bench.child
        child.says(told(Phase.INFERENCE))
        await bench.at(5)
        bench.worker.cancel(ATTEMPT, StopReason.UNWANTED)
        outcome = await rendering
    assert child.killed_s == pytest.approx(5 + GRACE_S)
    assert code_of(outcome) is FailureCode.CANCELLED


@in_virtual_time
async def test_the_process_is_killed_when_it_does_not_end_at_the_deadline(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering, child = bench.render(), bench.child
        outcome = await rendering
    assert child.killed_s == pytest.approx(DEADLINE_S + GRACE_S)
    assert code_of(outcome) is FailureCode.DEADLINE_EXCEEDED


@in_virtual_time
async def test_the_deadline_stays_the_reason_but_the_grace_is_short_when_the_lane_stops_after_it(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering, child = bench.render(), bench.child
        await bench.at(DEADLINE_S + 1)
        bench.worker.cancel(ATTEMPT, StopReason.SHUTDOWN)
        outcome = await rendering
    assert child.killed_s == pytest.approx(DEADLINE_S + 1 + 3)
    assert code_of(outcome) is FailureCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        ((StopReason.UNWANTED,), FailureCode.CANCELLED),
        ((StopReason.SHUTDOWN,), FailureCode.CANCELLED),
        ((StopReason.DEADLINE,), FailureCode.DEADLINE_EXCEEDED),
        ((StopReason.UNWANTED, StopReason.DEADLINE), FailureCode.DEADLINE_EXCEEDED),
        ((StopReason.DEADLINE, StopReason.UNWANTED), FailureCode.DEADLINE_EXCEEDED),
        ((StopReason.SHUTDOWN, StopReason.DEADLINE), FailureCode.CANCELLED),
    ],
)
@in_virtual_time
async def test_the_end_says_why_when_the_process_ends_the_attempt_as_asked(
    children: Children, reasons: tuple[StopReason, ...], code: FailureCode
) -> None:
    async with running_worker(children) as bench:
        rendering = bench.render()
        await bench.at(1)
        for reason in reasons:
            bench.worker.cancel(ATTEMPT, reason)
        bench.child.says(cancelled())
        assert code_of(await rendering) is code
        assert bench.child.killed_s is None


@in_virtual_time
async def test_the_process_is_killed_when_it_hangs_while_it_warms_and_nothing_is_in_work(children: Children) -> None:
    async with running_worker(children, warm_model="anisora") as bench:
        child = bench.child
        child.says(Started(device="cpu"))
        await bench.at(LOAD_DEADLINE_S + 5)
        assert child.killed_s == pytest.approx(LOAD_DEADLINE_S)
        assert len(children.all) == 2
        assert "it was not ready within 1800 s" in bench.worker.status.reason


@in_virtual_time
async def test_the_process_lives_on_when_it_became_warm_in_time(children: Children) -> None:
    async with running_worker(children, warm_model="anisora") as bench:
        bench.child.says(Started(device="cpu"))
        bench.child.says(ResidentChanged(model="anisora"))
        await bench.at(2 * LOAD_DEADLINE_S)
        assert len(children.all) == 1
        assert bench.worker.status.warm


def leaving() -> RenderEnded:
    """The process ended the attempt and goes: its device is lost."""
    failure = Failure(code=FailureCode.RENDER_FAILED, message="The pipeline failed.")
    return RenderEnded(attempt=ATTEMPT, outcome=Outcome(failure=failure, memory=unmeasured("test")), leaving=True)


def renders_of(child: FakeChild) -> int:
    """Attempts that it was given."""
    return sum(isinstance(command, Render) for command in child.commands)


@in_virtual_time
async def test_the_next_attempt_goes_to_the_next_process_when_the_first_one_leaves(children: Children) -> None:
    # It went to the process that was about to exit, and was counted as lost with it.
    async with running_worker(children, warm_model="anisora") as bench:
        first = bench.child
        first.says(Started(device="cpu"))
        first.says(ResidentChanged(model="anisora"))
        rendering = bench.render()
        await bench.at(5)
        first.says(leaving())
        assert code_of(await rendering) is FailureCode.RENDER_FAILED
        assert not bench.worker.status.warm
        assert bench.worker.status.healthy
        assert bench.worker.status.resident_model == ""
        following = bench.render()
        await bench.at(6)
        assert renders_of(first) == 1
        assert not following.done()
        first.exits(REPLACE_EXIT_CODE)
        await bench.at(7)
        assert len(children.all) == 2
        assert renders_of(bench.child) == 1
        bench.child.says(cancelled())
        assert code_of(await following) is FailureCode.CANCELLED


@in_virtual_time
async def test_the_attempt_ends_at_once_when_it_is_cancelled_while_it_waits_for_the_next_process(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering = bench.render()
        await bench.at(5)
        bench.child.says(leaving())
        await rendering
        following = bench.render()
        await bench.at(6)
        bench.worker.cancel(ATTEMPT, StopReason.UNWANTED)
        assert code_of(await following) is FailureCode.CANCELLED
        assert bench.child.killed_s is None


@in_virtual_time
async def test_the_next_process_knows_what_ran_out_when_the_first_one_has_to_be_replaced(children: Children) -> None:
    ran_out = (OutOfMemory(phase="denoise", placement="resident"),)
    async with running_worker(children) as bench:
        rendering, first = bench.render(), bench.child
        released = Release(model="anisora", weight_bytes=1, residue_bytes=2, release_s=0.5)
        await bench.at(5)
        first.says(ReplacementNeeded(attempt=ATTEMPT, released=released, out_of_memory=ran_out))
        first.exits(REPLACE_EXIT_CODE)
        await bench.at(6)
        (render,) = [command for command in bench.child.commands if isinstance(command, Render)]
        assert (render.released, render.out_of_memory) == (released, ran_out)
        bench.child.says(cancelled())
        await rendering


@in_virtual_time
async def test_the_attempt_is_lost_when_the_process_dies_in_its_second_try(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering = bench.render()
        await bench.at(5)
        bench.child.says(
            Progressed(attempt=ATTEMPT, phase=Phase.INFERENCE, progress=45, detail="step 1 of 8 (again, with less GPU memory)")
        )
        bench.child.exits(-9)
        assert code_of(await rendering) is FailureCode.LANE_LOST


@in_virtual_time
async def test_what_the_process_measured_is_known_when_it_is_up_and_stays_when_it_dies(children: Children) -> None:
    memory = WorkerMemory(limits=FakeMemory().limits(), ladders=())
    async with running_worker(children) as bench:
        assert bench.worker.status.memory is None
        bench.child.says(Started(device="cpu", memory=memory))
        await bench.at(1)
        bench.child.kill()
        await bench.at(1.1)
        assert bench.worker.status.memory == memory


@in_virtual_time
async def test_limits_are_those_of_now_when_another_process_took_memory(children: Children) -> None:
    memory = WorkerMemory(limits=FakeMemory().limits(), ladders=())
    less = replace(memory.limits, other_bytes=300)
    async with running_worker(children) as bench:
        bench.child.says(Started(device="cpu", memory=memory))
        bench.child.says(LimitsChanged(limits=less))
        await bench.at(1)
        assert bench.worker.status.memory == replace(memory, limits=less)


def loading(read_bytes: int, *, model: str = "anisora") -> Loading:
    """The process is so far, of 100 bytes."""
    return Loading(progress=LoadProgress(model=model, stage="loading the VAE", read_bytes=read_bytes, total_bytes=100))


@in_virtual_time
async def test_the_load_is_shown_while_it_goes_on_when_the_process_tells_of_it(children: Children) -> None:
    async with running_worker(children, warm_model="anisora") as bench:
        bench.child.says(loading(41))
        await bench.at(1)
        assert str(bench.worker.status.load) == "loading the VAE, 41 %"
        bench.child.says(ResidentChanged(model="anisora"))
        await bench.at(2)
        assert bench.worker.status.load is None


@pytest.mark.parametrize("end", ["died", "failed", "rendered"])
@in_virtual_time
async def test_no_load_is_shown_when_it_came_to_nothing(children: Children, end: str) -> None:
    async with running_worker(children) as bench:
        rendering = bench.render()
        bench.child.says(Started(device="cpu"))
        bench.child.says(loading(41))
        await bench.at(1)
        before = bench.worker.status
        assert before.load is not None
        match end:
            case "died":
                bench.child.exits(-9)
            case "failed":
                bench.child.says(LoadFailed(model="anisora", reason="no folder", cause=StartCause.WEIGHTS_MISSING))
            case _:
                bench.child.says(cancelled())
        await bench.at(1.1)
        assert bench.worker.status.load is None
        bench.child.says(cancelled())
        await rendering


@in_virtual_time
async def test_the_attempt_shows_the_load_when_it_waits_for_it(children: Children) -> None:
    async with running_worker(children) as bench:
        rendering = bench.render()
        bench.child.says(loading(41, model="phr00t"))
        bench.child.says(told(Phase.INFERENCE))
        await bench.at(1)
        # What comes after the load is over, a late word of it, is not shown.
        bench.child.says(loading(42, model="phr00t"))
        await bench.at(2)
        assert bench.told == [(Phase.LOADING, 0, "loading the VAE, 41 %"), (Phase.INFERENCE, 0, "")]
        bench.child.says(cancelled())
        await rendering


@in_virtual_time
async def test_the_reason_is_kept_through_the_next_tries_when_the_lane_cannot_become_warm(children: Children) -> None:
    async with running_worker(children, warm_model="anisora") as bench:
        bench.child.says(LoadFailed(model="anisora", reason="no folder", cause=StartCause.WEIGHTS_MISSING))
        bench.child.exits(1)
        await bench.at(0.4)
        failure = bench.worker.status.failure
        assert failure is not None
        assert (failure.cause, failure.reason, failure.attempts) == (StartCause.WEIGHTS_MISSING, "no folder", 1)
        assert bench.worker.status.reason.startswith("no folder (try 1 failed; the next at ")
        await bench.at(0.6)
        bench.child.says(Started(device="cpu"))
        await bench.at(0.7)
        assert bench.worker.status.reason == "anisora is being loaded; try 1 failed: no folder"
        retried = bench.worker.status
        assert retried.failure == failure
        bench.child.says(ResidentChanged(model="anisora"))
        await bench.at(0.8)
        assert (bench.worker.status.reason, bench.worker.status.failure, bench.worker.status.warm) == ("", None, True)


@in_virtual_time
async def test_no_start_has_failed_when_the_process_dies_that_was_warm(children: Children) -> None:
    async with running_worker(children, warm_model="anisora") as bench:
        bench.child.says(Started(device="cpu"))
        bench.child.says(ResidentChanged(model="anisora"))
        await bench.at(1)
        bench.child.exits(-11)
        await bench.at(1.1)
        assert bench.worker.status.failure is None
        assert "signal 11, SIGSEGV" in bench.worker.status.reason


@in_virtual_time
async def test_the_lane_says_how_far_the_load_was_when_the_deadline_passes(children: Children) -> None:
    async with running_worker(children, warm_model="anisora") as bench:
        bench.child.says(Started(device="cpu"))
        bench.child.says(loading(41))
        await bench.at(LOAD_DEADLINE_S + 0.1)
        failure = bench.worker.status.failure
        assert failure is not None
        assert (failure.cause, failure.reason) == (StartCause.DEADLINE, "it was not ready within 1800 s: loading the VAE, 41 %")
