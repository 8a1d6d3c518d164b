"""An engine on a store in memory that a test holds back, with lanes that a test speaks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from admission.core.lanes import LaneSpec, Outcome, Report, Work
from admission.core.tasks import LaneId, LaneMode, MemoryRecord, Model, Result, Stage, Task
from admission.engine import Engine
from admission.engine_types import Accepted, LaneWish, Submission
from admission.lane_session import EngineLaneSession
from admission.store.port import Batch
from runtime.objects import open_object_store
from runtime.rules.check import check_request
from runtime.rules.request import GenerationRequest
from tests.harness.clock import FakeClock
from tests.harness.store import FailingStore

PATIENCE_S = 5.0


class SlowStore(FailingStore):
    """Writes wait until the test lets them through, and their answers too; each batch is noted."""

    def __init__(self) -> None:
        """Lets everything through."""
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers = asyncio.Event()
        self.answers.set()
        self.batches: list[Batch] = []

    async def write(self, epoch: int, batch: Batch) -> int:
        """Waits at the gate first, and with the answer when all is stored."""
        await self.gate.wait()
        last_sequence = await super().write(epoch, batch)
        self.batches.append(batch)
        await self.answers.wait()
        return last_sequence


class Rig:
    """An engine on a store in memory, a clock that the test moves, and objects in a folder."""

    def __init__(self, folder: Path) -> None:
        """Files lie in this folder."""
        self.store, self.clock = SlowStore(), FakeClock()
        self.objects = open_object_store(folder.as_uri())
        self.engine = Engine(store=self.store, clock=self.clock, objects=self.objects)

    async def restart(self) -> None:
        """The engine stops and another one goes on with the same store."""
        await self.engine.stop()
        self.engine = Engine(store=self.store, clock=self.clock, objects=self.objects)
        await self.engine.start()

    def request(self, **changes: object) -> GenerationRequest:
        """A checked request."""
        return check_request({"model": "anisora", "prompt": "a boat", "width": 256, "height": 256, "num_frames": 9, "seed": 1, **changes})

    def submit(self, **changes: object) -> asyncio.Task[Task]:
        """A caller that waits for the acceptance of a request without an idempotency key."""

        async def accepted() -> Task:
            return (await self.engine.submit(Submission(request=self.request(**changes), owner="owner"))).task

        return asyncio.create_task(accepted())

    def submit_keyed(self, request_id: str, *, owner: str = "owner", abandon: bool = False, **changes: object) -> asyncio.Task[Accepted]:
        """A caller that waits for the acceptance of a request with an idempotency key."""
        submission = Submission(request=self.request(**changes), owner=owner, request_id=request_id, abandon=abandon)
        return asyncio.create_task(self.engine.submit(submission))

    async def lane(self, lane_id: str = "lane-anisora", model: str = "anisora") -> LaneDouble:
        """A warm lane that has reported."""
        lane = LaneDouble(self.engine.open_lane(), lane_id, model)
        await lane.report()
        return lane


class LaneDouble:
    """One stream of a warm lane."""

    def __init__(self, session: EngineLaneSession, lane_id: str, model: str) -> None:
        """Of this model."""
        self.session = session
        self.spec = LaneSpec(lane_id=LaneId(lane_id), mode=LaneMode.DEDICATED, models=(Model(model),))
        self.seen = 0

    async def report(self, work: Work | None = None) -> None:
        """Says what it is and does."""
        await self.session.report(
            Report(
                spec=self.spec,
                boot_id="boot",
                session=self.session.number,
                seen_sequence=self.seen,
                warm=True,
                healthy=True,
                draining=False,
                resident_model=self.spec.models[0],
                work=work,
            )
        )

    async def wish(self) -> LaneWish:
        """The next wish."""
        wish = await asyncio.wait_for(self.session.next_wish(), PATIENCE_S)
        self.seen = wish.wish.sequence
        return wish

    async def leased(self) -> Task:
        """Waits for a wish with a lease."""
        while (wish := await self.wish()).task is None:
            pass
        return wish.task

    async def finish(self, task: Task) -> None:
        """Reports that the task is done."""
        result = Result(
            video_key=f"results/{task.task_id}/{task.attempt}/video.mp4",
            media_type="video/mp4",
            size_bytes=1,
            sha256="0" * 64,
            preview_key=f"results/{task.task_id}/{task.attempt}/preview.jpg",
            width=256,
            height=256,
            num_frames=9,
            fps=16,
        )
        outcome = Outcome(result=result, memory=MemoryRecord(figures={"device": "cpu"}), render_s=2.0)
        await self.report(Work(task_id=task.task_id, attempt=task.attempt, stage=Stage.ENCODING, progress=99, outcome=outcome))


async def settle() -> None:
    """Lets everything that can run without time passing run."""
    for _ in range(20):
        await asyncio.sleep(0)
