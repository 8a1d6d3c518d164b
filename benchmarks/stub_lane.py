"""A lane without a GPU, for benchmarks of admission: it takes leases and answers each at once, or keeps the first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc.aio
from warmlane.generation.v1 import generation_pb2 as generation
from warmlane.lane.v1 import dispatch_service_pb2 as dispatch
from warmlane.lane.v1 import dispatch_service_pb2_grpc as dispatch_rpc


class StubLane:
    """A lane without a GPU. `busy`: it keeps its first lease; otherwise every lease is done at once."""

    def __init__(self, channel: grpc.aio.Channel, model: str, *, busy: bool) -> None:
        """Speaks for a dedicated lane of the model."""
        self._call = dispatch_rpc.DispatchServiceStub(channel).Attach()
        self._model = model
        self._busy = busy
        self._seen = 0
        self._writing = asyncio.Lock()
        self._said: dispatch.Work | None = None
        self._task = asyncio.create_task(self._run(), name=f"stub-lane-{model}")
        self.ready = asyncio.Event()

    async def close(self) -> None:
        """Leaves."""
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        await self._report()
        repeating = asyncio.create_task(self._repeat(), name=f"stub-lane-{self._model}-repeat")
        try:
            while isinstance(response := await self._call.read(), dispatch.AttachResponse):
                self.ready.set()
                desired = response.desired
                self._seen = desired.sequence
                self._said = self._work(desired.lease) if desired.HasField("lease") else None
                await self._report()
        finally:
            repeating.cancel()
            await asyncio.gather(repeating, return_exceptions=True)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(2.0)
            await self._report()

    def _work(self, lease: dispatch.Lease) -> dispatch.Work:
        if self._busy:
            return dispatch.Work(task_id=lease.task_id, attempt=lease.attempt, phase=dispatch.WORK_PHASE_INFERENCE, progress=1)
        work = dispatch.Work(task_id=lease.task_id, attempt=lease.attempt, phase=dispatch.WORK_PHASE_ENDED, progress=100)
        files = generation.Result(
            video_key=lease.artifact_prefix + "video.mp4",
            media_type="video/mp4",
            size_bytes=1,
            sha256="0" * 64,
            preview_key=lease.artifact_prefix + "preview.jpg",
            width=64,
            height=64,
            num_frames=9,
            fps=16,
        )
        work.outcome.result.CopyFrom(files)
        work.outcome.memory.unmeasured_reason = "a stub lane"
        return work

    async def _report(self) -> None:
        report = dispatch.LaneReport(
            protocol_version=1,
            lane_id=f"stub-{self._model}",
            boot_id="boot",
            kind=dispatch.LANE_KIND_DEDICATED,
            models=[self._model],
            seen_sequence=self._seen,
            warm=True,
            resident_model=self._model,
            healthy=True,
            work=self._said,
            device="none",
        )
        async with self._writing:
            await self._call.write(dispatch.AttachRequest(report=report))


@contextlib.asynccontextmanager
async def stub_lane(channel: grpc.aio.Channel, model: str, *, busy: bool) -> AsyncIterator[None]:
    """A stub lane that has been heard, as long as the block lives."""
    lane = StubLane(channel, model, busy=busy)
    try:
        await asyncio.wait_for(lane.ready.wait(), 10)
        yield
    finally:
        await lane.close()
