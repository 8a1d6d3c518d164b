"""Lanes that render nothing: each lease is answered at once with two small files. They make the whole way of a request cheap.

The prompt `waits` is not rendered before it is cancelled; `fails` ends with `render_failed`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
from PIL import Image
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

_REPORT_S = 5.0

MEDIA_TYPES = {"mp4": "video/mp4", "webm": "video/webm"}


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def video_bytes(task_id: str, output_format: str = "mp4") -> bytes:
    """The file of a task: the outer form of an MP4 or a WebM with no picture in it."""
    if output_format == "webm":
        return b"\x1aE\xdf\xa3" + task_id.encode() * 8
    return _box(b"ftyp", b"isom\0\0\2\0isomiso2") + _box(b"moov", b"\0" * 32) + _box(b"mdat", task_id.encode() * 8)


def preview_bytes() -> bytes:
    """A real JPEG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "navy").save(file, "JPEG")
    return file.getvalue()


_PREVIEW = preview_bytes()


@asynccontextmanager
async def noop_lanes(channel: grpc.aio.Channel, objects: Path, models: Sequence[str] = ("anisora", "phr00t")) -> AsyncIterator[None]:
    """One dedicated lane for each model, attached and ready; they leave at the end."""
    async with AsyncExitStack() as stack:
        for model in models:
            lane = _NoopLane(channel, objects, model)
            for name, work in (("answers", lane.run()), ("repeats", lane.repeat())):
                stack.push_async_callback(_end, asyncio.create_task(work, name=f"noop-{model}-{name}"))
            async with asyncio.timeout(10):
                await lane.attached.wait()
        yield


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class _NoopLane:
    def __init__(self, channel: grpc.aio.Channel, objects: Path, model: str) -> None:
        self._call = DispatchServiceStub(channel).Attach()
        self._objects = objects
        self._model = model
        self._work: pb.Work | None = None
        self._seen = 0
        # One writer at a time.
        self._writing = asyncio.Lock()
        self.attached = asyncio.Event()

    async def run(self) -> None:
        """Answers until it is cancelled."""
        await self._report()
        try:
            async for answer in self._call:
                self._seen = answer.desired.sequence
                self.attached.set()
                self._obey(answer.desired)
                await self._report()
        finally:
            self._call.cancel()

    async def repeat(self) -> None:
        """Reports as often as admission asks for at least, however little there is to do."""
        while True:
            await asyncio.sleep(_REPORT_S)
            await self._report()

    def _obey(self, desired: pb.DesiredState) -> None:
        work, lease = self._work, desired.lease if desired.HasField("lease") else None
        if work is not None and _is(work, desired.acknowledged):
            self._work = work = None
        if work is not None and work.phase != pb.WORK_PHASE_ENDED and (lease is None or not _is(work, lease)):
            failure = generation_pb2.Failure(code="cancelled", message="The task was cancelled.")
            self._work = _ended(work.task_id, work.attempt, pb.Outcome(failure=failure))
        elif work is None and lease is not None:
            self._work = self._begun(lease)

    def _begun(self, lease: pb.Lease) -> pb.Work:
        if lease.request.prompt == "waits":
            return pb.Work(task_id=lease.task_id, attempt=lease.attempt, phase=pb.WORK_PHASE_INFERENCE, progress=10, detail="step 1 of 8")
        if lease.request.prompt == "fails":
            failure = generation_pb2.Failure(code="render_failed", message="The pipeline raised an error.")
            return _ended(lease.task_id, lease.attempt, pb.Outcome(failure=failure))
        return _ended(lease.task_id, lease.attempt, pb.Outcome(result=self._files(lease)))

    def _files(self, lease: pb.Lease) -> generation_pb2.Result:
        request = lease.request
        video = video_bytes(lease.task_id, request.output_format)
        keys = {name: lease.artifact_prefix + name for name in (f"video.{request.output_format}", "preview.jpg")}
        for key, content in zip(keys.values(), (video, _PREVIEW), strict=True):
            path = self._objects / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        video_key, preview_key = keys.values()
        return generation_pb2.Result(
            video_key=video_key,
            preview_key=preview_key,
            media_type=MEDIA_TYPES[request.output_format],
            size_bytes=len(video),
            sha256=hashlib.sha256(video).hexdigest(),
            width=request.width,
            height=request.height,
            num_frames=request.num_frames,
            fps=request.fps,
        )

    async def _report(self) -> None:
        async with self._writing:
            await self._call.write(pb.AttachRequest(report=self._state()))

    def _state(self) -> pb.LaneReport:
        return pb.LaneReport(
            protocol_version=1,
            lane_id=f"noop-{self._model}",
            boot_id="boot",
            kind=pb.LANE_KIND_DEDICATED,
            models=[self._model],
            resident_model=self._model,
            seen_sequence=self._seen,
            warm=True,
            healthy=True,
            device="none",
            work=self._work,
        )


def _is(work: pb.Work, other: pb.Lease | pb.AttemptReference) -> bool:
    return (work.task_id, work.attempt) == (other.task_id, other.attempt)


def _ended(task_id: str, attempt: int, outcome: pb.Outcome) -> pb.Work:
    outcome.memory.CopyFrom(generation_pb2.MemoryRecord(unmeasured_reason="renders nothing"))
    return pb.Work(task_id=task_id, attempt=attempt, phase=pb.WORK_PHASE_ENDED, progress=100, outcome=outcome)
