"""A lane by hand: a real stream to a real admission that says what a test wants, however wrong."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc.aio
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from runtime.rpc import create_channel

_PATIENCE_S = 15.0
_REPORT_S = 1.0
_LEAVE_S = 2.0


class ScriptedLane:
    """One stream of a dedicated lane. Use as an async context manager: entering sends the first report, leaving hangs up.

    It repeats its newest report every second, as lanes do, until `fall_silent`.

    Attributes:
        wish: newest state that admission wanted on this stream.
        end: how admission ended the stream; None while it goes on.
        is_draining: it says that it takes no new lease.
    """

    def __init__(self, address: str, *, model: str, lane_id: str, boot_id: str) -> None:
        """Nothing is opened yet."""
        self._address = address
        self._identity = {"lane_id": lane_id, "boot_id": boot_id, "models": [model], "resident_model": model}
        self._work: pb.Work | None = None
        self.wish = pb.DesiredState()
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self.end: grpc.StatusCode | None = None
        self.is_draining = False

    async def __aenter__(self) -> ScriptedLane:
        """Attaches."""
        self._channel = create_channel(self._address)
        self._call = DispatchServiceStub(self._channel).Attach()
        await self.report(None)
        self._tasks = [asyncio.create_task(self._listen(), name="lane-listens"), asyncio.create_task(self._repeat(), name="lane-repeats")]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Says that it takes nothing more, as a lane does that is stopped, and hangs up."""
        listening, repeating = self._tasks
        repeating.cancel()
        self.is_draining = True
        # Its stream may be over: a zombie's is.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self.report(self._work)
                await self._call.done_writing()
                await asyncio.shield(listening)
        listening.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._call.cancel()
        await self._channel.close()

    async def report(self, work: pb.Work | None) -> None:
        """Says what it works on."""
        self._work = work
        fields = {"protocol_version": 1, "kind": pb.LANE_KIND_DEDICATED, "warm": True, "healthy": True, "device": "none"}
        report = pb.LaneReport(**self._identity, **fields, seen_sequence=self.wish.sequence, draining=self.is_draining, work=work)  # type: ignore[arg-type]
        await self._call.write(pb.AttachRequest(report=report))

    async def until(self, condition: Callable[[pb.DesiredState], bool]) -> pb.DesiredState:
        """The newest wish, when it fulfils the condition."""
        async with asyncio.timeout(_PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: condition(self.wish) or self.end is not None)
        assert condition(self.wish), (self.wish, self.end)
        return self.wish

    async def take_lease(self) -> pb.Lease:
        """Waits for a lease and says that it renders."""
        lease = (await self.until(lambda wish: wish.HasField("lease"))).lease
        await self.report(working(lease))
        return lease

    async def _listen(self) -> None:
        try:
            async for answer in self._call:
                async with self._changed:
                    self.wish = answer.desired
                    self._changed.notify_all()
        except grpc.aio.AioRpcError as error:
            async with self._changed:
                self.end = error.code()
                self._changed.notify_all()

    async def _repeat(self) -> None:
        while self.end is None:
            await asyncio.sleep(_REPORT_S)
            await self.report(self._work)


def working(lease: pb.Lease, progress: int = 10) -> pb.Work:
    """It renders this lease."""
    return pb.Work(task_id=lease.task_id, attempt=lease.attempt, phase=pb.WORK_PHASE_INFERENCE, progress=progress)


def done(lease: pb.Lease, objects: Path) -> pb.Work:
    """It rendered this lease: the files are there."""
    content = f"{lease.task_id} {lease.attempt}".encode()
    folder = objects / lease.artifact_prefix
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("video.mp4", "preview.jpg"):
        (folder / name).write_bytes(content)
    result = generation_pb2.Result(
        video_key=lease.artifact_prefix + "video.mp4",
        preview_key=lease.artifact_prefix + "preview.jpg",
        media_type="video/mp4",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        width=lease.request.width,
        height=lease.request.height,
        num_frames=lease.request.num_frames,
        fps=lease.request.fps,
    )
    outcome = pb.Outcome(result=result, memory=generation_pb2.MemoryRecord(unmeasured_reason="a test"))
    return pb.Work(task_id=lease.task_id, attempt=lease.attempt, phase=pb.WORK_PHASE_ENDED, progress=100, outcome=outcome)
