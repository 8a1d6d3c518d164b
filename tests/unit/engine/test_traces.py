"""The spans that admission writes of a task, and what the trace is through restarts, losses and cancels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from admission.core.lanes import Outcome, Work
from admission.core.tasks import Failure, FailureCode, MemoryRecord, Stage, Task, TaskId
from admission.engine import Engine
from admission.engine_types import Submission
from admission.store.port import StoreUnavailableError
from admission.traces import TaskTraces
from runtime.traces import names
from runtime.traces.context import attempt_span_id, stored
from runtime.traces.tracer import Span
from tests.harness.engine import Rig, settle
from tests.harness.tasks import START
from tests.unit.traces.spans import CONTEXT, Kept

LANE = "lane-anisora"
ORIGIN_NS = int(START.timestamp()) * 10**9


class Traced(Rig):
    """An engine whose decisions are traced."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tracer = Kept()
        self.engine = self._engine()

    def _engine(self) -> Engine:
        return Engine(store=self.store, clock=self.clock, objects=self.objects, observer=TaskTraces(self.tracer))

    async def restart(self) -> None:
        await self.engine.stop()
        self.engine = self._engine()
        await self.engine.start()

    async def accepted(self, trace: str = stored(CONTEXT)) -> Task:
        """A task that was accepted with this trace."""
        return (await self.engine.submit(Submission(request=self.request(), owner="owner", trace=trace))).task

    def asked(self) -> asyncio.Task[Task]:
        """As above, for what may have to wait."""
        return asyncio.create_task(self.accepted())

    def told(self) -> list[tuple[str, float, float]]:
        """Name, begin and end of each span, in seconds since the rig's clock began."""
        return [(span.name, _s(span.began_ns), _s(span.ended_ns)) for span in self.tracer.spans]


def _s(nanoseconds: int) -> float:
    return (nanoseconds - ORIGIN_NS) / 1e9


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Traced]:
    """Serves, and waits for no lane of before."""
    rig = Traced(tmp_path)
    await rig.store.open()
    await rig.engine.start()
    rig.clock.advance(20)
    yield rig
    await rig.engine.stop()


def _work(task: Task, outcome: Outcome | None = None, stage: Stage = Stage.LOADING_PIPELINE) -> Work:
    return Work(task_id=task.task_id, attempt=task.attempt, stage=stage, progress=10, outcome=outcome)


def _failed(code: FailureCode) -> Outcome:
    return Outcome(failure=Failure(code=code, message="No."), memory=MemoryRecord(unmeasured_reason="none"))


def _hangs_as_it_should(span: Span, task_id: TaskId) -> None:
    assert span.context.trace_id == CONTEXT.trace_id
    assert span.context.state == CONTEXT.state
    assert span.attributes[names.TASK] == task_id
    attempt = attempt_span_id(CONTEXT.trace_id, task_id, int(span.attributes[names.ATTEMPT]))
    assert span.parent_id == (attempt if span.name == names.DISPATCH else CONTEXT.span_id)
    if span.name.startswith("attempt"):
        assert span.context.span_id == attempt


async def test_each_wait_and_each_attempt_has_its_time_when_a_task_is_done(rig: Traced) -> None:
    lane = await rig.lane()
    first, task = await rig.accepted(), await rig.accepted()
    await lane.leased()
    rig.clock.advance(3)
    await lane.finish(replace(first, attempt=1))
    leased = await lane.leased()
    assert leased.task_id == task.task_id
    rig.tracer.spans.clear()
    rig.clock.advance(1)
    await lane.report(_work(leased))
    await lane.report(_work(leased, stage=Stage.INFERENCE))
    rig.clock.advance(5)
    await lane.finish(leased)
    await settle()
    assert rig.told() == [("dispatch", 23, 24), ("attempt 1", 23, 29)]
    for span in rig.tracer.spans:
        _hangs_as_it_should(span, task.task_id)
    attributes = rig.tracer.one("attempt 1").attributes
    assert (attributes[names.END], attributes[names.LANE], attributes[names.LANE_MODE]) == ("done", LANE, "dedicated")


async def test_the_wait_is_told_when_a_lane_takes_the_task(rig: Traced) -> None:
    lane = await rig.lane()
    first, task = await rig.accepted(), await rig.accepted()
    await lane.leased()
    rig.clock.advance(3)
    await lane.finish(replace(first, attempt=1))
    await lane.leased()
    await settle()
    waits = [span for span in rig.tracer.spans if span.name == "queue wait"]
    assert [(_s(span.began_ns), _s(span.ended_ns), span.attributes[names.TASK]) for span in waits] == [
        (20, 20, first.task_id), (20, 23, task.task_id),
    ]  # fmt: skip
    _hangs_as_it_should(waits[1], task.task_id)
    assert len({span.context.span_id for span in rig.tracer.spans}) == len(rig.tracer.spans)


async def test_a_held_request_says_how_long_when_it_is_taken_in_the_end(rig: Traced) -> None:
    waiting = rig.asked()
    await settle()
    rig.clock.advance(7)
    lane = await rig.lane()
    task = await waiting
    await lane.leased()
    await settle()
    assert rig.told()[0] == ("held", 20, 27)
    _hangs_as_it_should(rig.tracer.one("held"), task.task_id)


async def test_the_next_attempt_is_in_the_same_trace_when_one_was_lost(rig: Traced) -> None:
    lane = await rig.lane()
    task = await rig.accepted()
    leased = await lane.leased()
    await lane.report(_work(leased))
    rig.clock.advance(2)
    await lane.report(_work(leased, _failed(FailureCode.LANE_LOST)))
    again = await lane.leased()
    rig.clock.advance(2)
    await lane.finish(again)
    await settle()
    assert rig.told() == [
        ("queue wait", 20, 20), ("dispatch", 20, 20), ("attempt 1", 20, 22), ("queue wait", 22, 22), ("attempt 2", 22, 24),
    ]  # fmt: skip
    first, second = rig.tracer.one("attempt 1"), rig.tracer.one("attempt 2")
    assert (first.attributes[names.END], first.is_failed) == ("lane_lost", True)
    assert (second.attributes[names.END], second.is_failed) == ("done", False)
    for span in rig.tracer.spans:
        _hangs_as_it_should(span, task.task_id)


@pytest.mark.parametrize("code", [FailureCode.RENDER_FAILED, FailureCode.GPU_MEMORY_EXCEEDED, FailureCode.DEADLINE_EXCEEDED])
async def test_an_attempt_says_how_it_failed_when_the_task_ends_with_it(rig: Traced, code: FailureCode) -> None:
    lane = await rig.lane()
    await rig.accepted()
    leased = await lane.leased()
    await lane.report(_work(leased, _failed(code)))
    await settle()
    span = rig.tracer.one("attempt 1")
    assert (span.attributes[names.END], span.is_failed) == (code, True)


async def test_an_attempt_ends_with_the_cancel_when_the_task_is_cancelled(rig: Traced) -> None:
    lane = await rig.lane()
    task = await rig.accepted()
    leased = await lane.leased()
    rig.clock.advance(4)
    await rig.engine.cancel(task.task_id)
    rig.clock.advance(4)
    # The lane says later that it stopped: no second span.
    await lane.report(_work(leased, _failed(FailureCode.CANCELLED)))
    await settle()
    assert rig.told() == [("queue wait", 20, 20), ("attempt 1", 20, 24)]
    assert (rig.tracer.spans[1].attributes[names.END], rig.tracer.spans[1].is_failed) == ("cancelled", False)


async def test_the_wait_ends_with_the_task_when_nobody_took_it(rig: Traced) -> None:
    lane = await rig.lane()
    await rig.accepted()
    await lane.leased()
    task = await rig.accepted()
    rig.tracer.spans.clear()
    rig.clock.advance(6)
    await rig.engine.cancel(task.task_id)
    await settle()
    assert rig.told() == [("queue wait", 20, 26)]
    assert rig.tracer.spans[0].attributes[names.END] == "cancelled"


async def test_the_trace_goes_on_when_admission_is_started_again(rig: Traced) -> None:
    lane = await rig.lane()
    task = await rig.accepted()
    leased = await lane.leased()
    await rig.restart()
    rig.tracer.spans.clear()
    rig.clock.advance(2)
    lane = await rig.lane()
    await lane.report(_work(leased))
    rig.clock.advance(3)
    await lane.finish(leased)
    await settle()
    assert rig.told() == [("attempt 1", 20, 25)]
    _hangs_as_it_should(rig.tracer.spans[0], task.task_id)


@pytest.mark.parametrize("trace", ["", "nonsense", stored(CONTEXT._replace(is_sampled=False))])
async def test_nothing_is_written_when_the_task_has_no_sampled_trace(rig: Traced, trace: str) -> None:
    lane = await rig.lane()
    task = await rig.accepted(trace)
    await lane.finish(await lane.leased())
    await settle()
    assert rig.tracer.spans == []
    kept = await rig.store.task(task.task_id)
    assert kept is not None
    assert kept.trace == trace


async def test_nothing_is_written_twice_or_wrong_when_the_store_was_away(rig: Traced) -> None:
    lane = await rig.lane()
    task = await rig.accepted()
    leased = await lane.leased()
    rig.tracer.spans.clear()
    rig.store.fail_writes = True
    await lane.report(_work(leased))
    await lane.report(_work(leased, _failed(FailureCode.LANE_LOST)))
    await settle()
    assert rig.tracer.spans == []
    with pytest.raises(StoreUnavailableError):
        await rig.accepted()
    rig.store.fail_writes = False
    again = await lane.leased()
    await lane.finish(again)
    await settle()
    ids = [span.context.span_id for span in rig.tracer.spans]
    assert len(set(ids)) == len(ids)
    assert {"attempt 1", "attempt 2"} <= set(rig.tracer.names()) <= {"dispatch", "attempt 1", "queue wait", "attempt 2"}
    for span in rig.tracer.spans:
        _hangs_as_it_should(span, task.task_id)
