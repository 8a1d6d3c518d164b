"""Services, engine and a store in memory behind a real gRPC port, and a lane as far as admission sees one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import obstore
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2, memory_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from admission.access import Access
from admission.engine import Engine
from admission.service.doors import Doors
from admission.service.errors import translate
from admission.service.mount import services
from admission.service.recycling import STREAM_LIFE_S
from admission.store.memory import MemoryStore
from admission.store.sql import SqlStore
from runtime.errors import ServiceError
from runtime.objects import open_object_store
from runtime.rpc import GrpcServer, create_channel
from runtime.rpc_errors import service_error
from tests.harness.clock import FakeClock

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceAsyncStub
    from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceAsyncStub

Call = grpc.aio.StreamStreamCall[dispatch_service_pb2.AttachRequest, dispatch_service_pb2.AttachResponse]
PATIENCE_S = 10.0


@dataclass
class Stack:
    """A running admission, but for its process."""

    engine: Engine
    clock: FakeClock
    objects: ObjectStore
    channel: grpc.aio.Channel
    port: int

    @property
    def clients(self) -> AdmissionServiceAsyncStub:
        """What clients call."""
        return AdmissionServiceStub(self.channel)

    @property
    def operators(self) -> OperatorServiceAsyncStub:
        """What operators call."""
        return OperatorServiceStub(self.channel)

    async def snapshot(self) -> operator_service_pb2.GetSnapshotResponse:
        """Everything now."""
        return await self.operators.GetSnapshot(operator_service_pb2.GetSnapshotRequest(), timeout=5)


@asynccontextmanager
async def admission_stack(
    folder: Path,
    *,
    stream_life_s: float = STREAM_LIFE_S,
    store: MemoryStore | SqlStore | None = None,
    port: int = 0,
    objects: ObjectStore | None = None,
) -> AsyncIterator[Stack]:
    """Serves with a clock that the test moves; with the store and the port of an earlier one it is that one again.

    Without them the store is in memory, the port a free one, and objects lie in the folder.
    """
    clock, doors = FakeClock(), Doors()
    store = store or MemoryStore(now=lambda: clock.now().utc)
    objects = objects or open_object_store((folder / "objects").as_uri())
    await store.open()
    engine, access = Engine(store=store, clock=clock, objects=objects), Access(store=store.access, clock=clock)
    await engine.start()
    mounted = services(controller=engine, access=access, objects=objects, clock=clock, doors=doors, stream_life_s=stream_life_s)
    server = GrpcServer(f"127.0.0.1:{port}", mounted, translate=translate)
    await server.start()
    doors.open()
    try:
        async with create_channel(f"127.0.0.1:{server.port}") as channel:
            yield Stack(engine, clock, objects, channel, server.port)
    finally:
        doors.close()
        await server.stop(0)
        await access.close()
        await engine.stop()
        await store.close()


class Lane:
    """A lane of anisora, as far as admission sees one."""

    def __init__(
        self, call: Call, *, lane_id: str = "lane-anisora", boot_id: str = "boot-1", memory: memory_pb2.WorkerMemory | None = None
    ) -> None:
        """Speaks over this stream; it has said nothing of its memory unless that is given."""
        self.call = call
        self._memory = memory
        self._lane_id = lane_id
        self._boot_id = boot_id
        self._seen = 0

    async def report(self, work: dispatch_service_pb2.Work | None = None) -> None:
        """Sends its state: warm, healthy, and this work."""
        report = dispatch_service_pb2.LaneReport(
            protocol_version=1,
            lane_id=self._lane_id,
            boot_id=self._boot_id,
            kind=dispatch_service_pb2.LANE_KIND_DEDICATED,
            models=["anisora"],
            seen_sequence=self._seen,
            warm=True,
            healthy=True,
            resident_model="anisora",
            work=work,
            memory=self._memory,
        )
        await self.call.write(dispatch_service_pb2.AttachRequest(report=report))

    async def wish(self, fits: Callable[[dispatch_service_pb2.DesiredState], bool]) -> dispatch_service_pb2.DesiredState:
        """The first wish that fits."""
        while True:
            answer = await self.call.read()
            assert isinstance(answer, dispatch_service_pb2.AttachResponse)
            self._seen = answer.desired.sequence
            if fits(answer.desired):
                return answer.desired


def attached(stack: Stack, *, memory: memory_pb2.WorkerMemory | None = None) -> Lane:
    """A lane that opened its stream and has said nothing yet."""
    return Lane(DispatchServiceStub(stack.channel).Attach(timeout=60), memory=memory)


def submission(owner: str = "") -> pb.SubmitTaskRequest:
    """A request that fits every rule."""
    return pb.SubmitTaskRequest(request=generation_pb2.GenerationRequest(model="anisora", prompt="a lake"), owner=owner)


async def error_of(call: Awaitable[object]) -> ServiceError:
    """What the call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Polls until it holds."""
    async with asyncio.timeout(PATIENCE_S):
        # What is waited for happens behind gRPC: there is no event to wait on here.
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def degraded_depth_is(stack: Stack, depth: int) -> bool:
    """So many places are taken."""
    return (await stack.snapshot()).degraded.depth == depth


async def ready_lane(stack: Stack, *, memory: memory_pb2.WorkerMemory | None = None) -> Lane:
    """A lane that can be given work."""
    lane = attached(stack, memory=memory)
    await lane.report()
    await lane.wish(lambda desired: True)
    return lane


async def render(
    stack: Stack,
    lane: Lane,
    lease: dispatch_service_pb2.Lease,
    content: bytes,
    record: generation_pb2.MemoryRecord | None = None,
) -> None:
    """Stores the files and says so, with this memory record."""
    keys = {name: f"{lease.artifact_prefix}{name}" for name in ("video.mp4", "preview.jpg")}
    for key in keys.values():
        await obstore.put_async(stack.objects, key, content)
    result = generation_pb2.Result(
        video_key=keys["video.mp4"],
        preview_key=keys["preview.jpg"],
        media_type="video/mp4",
        size_bytes=len(content),
        sha256="0" * 64,
        width=lease.request.width,
        height=lease.request.height,
        num_frames=lease.request.num_frames,
        fps=lease.request.fps,
    )
    record = record or generation_pb2.MemoryRecord(device="cpu", host_rss_after_bytes=1)
    outcome = dispatch_service_pb2.Outcome(result=result, memory=record)
    await lane.report(
        dispatch_service_pb2.Work(
            task_id=lease.task_id,
            attempt=lease.attempt,
            phase=dispatch_service_pb2.WORK_PHASE_ENDED,
            progress=100,
            outcome=outcome,
        )
    )


async def accepted_task(stack: Stack) -> task_pb2.Task:
    """A task that was accepted now."""
    return (await stack.clients.SubmitTask(submission(), timeout=60)).task
