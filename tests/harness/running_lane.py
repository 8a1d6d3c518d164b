"""A lane's agent with a real pipeline process and a real object store, attached to a double of admission; the model is numpy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from runtime.lane.agent import Agent, AgentSettings
from runtime.lane.convert import LaneIdentity
from runtime.lane.work import WorkerSettings
from runtime.rpc import create_channel
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.wire import request_to_message
from tests.harness.lane_admission import AdmissionDouble

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A running agent and what surrounds it."""

    agent: Agent
    admission: AdmissionDouble
    running: asyncio.Task[None]
    objects: Path
    models: Path

    async def ready(self) -> None:
        """Returns when admission was told that the lane is warm."""
        if not any(report.warm for report in self.admission.reports):
            await self.admission.until(lambda report: report.warm)


@asynccontextmanager
async def running_lane(
    folder: Path, *, dedicated: bool = True, cancel_grace_s: float = 5.0, stream_life_s: float = 600.0, overlap: bool = True
) -> AsyncIterator[Lane]:
    """A lane that is attached to a double."""
    models, objects = folder / "models", folder / "objects"
    models.mkdir()
    identity = LaneIdentity(
        lane_id="lane-test",
        boot_id="boot",
        is_dedicated=dedicated,
        models=("anisora",) if dedicated else ("anisora", "phr00t"),
        catalog="tests.harness.lane_catalog:catalog",
    )
    worker = WorkerSettings(
        name="lane-test",
        catalog=identity.catalog,
        profile="tiny",
        models_dir=models,
        device="cpu",
        object_store_url=objects.as_uri(),
        warm_model="anisora" if dedicated else "",
        cancel_grace_s=cancel_grace_s,
        overlap=overlap,
    )
    admission = AdmissionDouble()
    await admission.start()
    async with create_channel(admission.address) as channel:
        agent = Agent(identity, AgentSettings(stream_life_s=stream_life_s), worker, DispatchServiceStub(channel))
        running = asyncio.create_task(agent.run(), name="agent")
        try:
            yield Lane(agent=agent, admission=admission, running=running, objects=objects, models=models)
        finally:
            running.cancel()
            await asyncio.wait({running})
            await admission.stop()
    assert agent.status.pid == 0


def lease(prompt: str, *, task: str = "a", attempt: int = 1, model: str = "anisora", seed: int = 7, deadline_s: int = 60) -> pb.Lease:
    """A lease of a small clip; the prompt says how the pipeline behaves."""
    raw = {"model": model, "prompt": prompt, "width": 256, "height": 256, "num_frames": 9, "fps": 8, "seed": seed, "mode": "t2v"}
    made = pb.Lease(task_id=task, attempt=attempt, artifact_prefix=f"results/{task}/{attempt}/")
    made.request.CopyFrom(request_to_message(effective(check_request(raw), seed=seed)))
    made.render_deadline.FromSeconds(deadline_s)
    return made


async def holds(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(90):
        while not condition():  # noqa: ASYNC110 (nothing tells when it does)
            await asyncio.sleep(0.01)
