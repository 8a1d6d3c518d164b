"""A worker with processes that say only what a test says, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.lane.child_protocol import Progressed, RenderEnded
from runtime.lane.outcome import Failure, FailureCode, Outcome, Phase, unmeasured
from runtime.lane.state import Attempt
from runtime.lane.work import Order, WorkerSettings
from runtime.lane.worker import Worker
from tests.harness.lane_child import Children, FakeChild

ATTEMPT = Attempt(task_id="a", number=1)
GRACE_S = 10.0
DEADLINE_S = 900.0
LOAD_DEADLINE_S = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBench:
    """A worker whose first process runs.

    Attributes:
        told: phase, progress and sentence of everything that it told of an attempt.
        freed: attempts of which it told that they need the GPU no more.
    """

    worker: Worker
    children: Children
    told: list[tuple[Phase, int, str]]
    freed: list[Attempt]

    @property
    def child(self) -> FakeChild:
        """The process that runs now."""
        return self.children.all[-1]

    def render(self, attempt: Attempt = ATTEMPT) -> asyncio.Task[Outcome]:
        """Begins an attempt now."""
        order = Order(attempt=attempt, parameters={}, artifact_prefix="results/a/1/", deadline_s=DEADLINE_S)
        return asyncio.create_task(self.worker.render(order), name="render")

    async def at(self, seconds: float) -> None:
        """Goes on at this time of the loop."""
        await asyncio.sleep(seconds - asyncio.get_running_loop().time())


@asynccontextmanager
async def running_worker(children: Children, *, warm_model: str = "") -> AsyncIterator[WorkerBench]:
    """A worker at time 0; its process is silent."""
    settings = WorkerSettings(
        name="lane-test",
        catalog="m:c",
        profile="tiny",
        models_dir=Path("models"),
        device="cpu",
        object_store_url="file:///objects",
        warm_model=warm_model,
        cancel_grace_s=GRACE_S,
        load_deadline_s=LOAD_DEADLINE_S,
    )
    told: list[tuple[Phase, int, str]] = []
    freed: list[Attempt] = []
    worker = Worker(
        settings,
        on_change=lambda: None,
        on_progress=lambda _attempt, *progress: told.append(progress),
        on_gpu_free=freed.append,
    )
    running = asyncio.create_task(worker.run(), name="worker")
    try:
        await asyncio.sleep(0)
        yield WorkerBench(worker=worker, children=children, told=told, freed=freed)
    finally:
        running.cancel()
        await asyncio.wait({running})


def told(phase: Phase) -> Progressed:
    """The process tells that it is in this phase."""
    return Progressed(attempt=ATTEMPT, phase=phase, progress=0, detail="")


def cancelled() -> RenderEnded:
    """The process ended the attempt as it was asked to."""
    failure = Failure(code=FailureCode.CANCELLED, message="The render was cancelled.")
    return RenderEnded(attempt=ATTEMPT, outcome=Outcome(failure=failure, memory=unmeasured("test")))


def code_of(outcome: Outcome) -> FailureCode | None:
    """Of its failure."""
    return outcome.failure.code if outcome.failure is not None else None
