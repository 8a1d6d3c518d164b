"""An admission made of a few scripted answers, served over real gRPC."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import admission_service_pb2_grpc, operator_service_pb2, operator_service_pb2_grpc, task_pb2
from warmlane.generation.v1 import generation_pb2

from runtime.credentials import OPEN_SERVER, ServerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc import GrpcServer

VIDEO = bytes(range(256)) * 4096
TASK_ID = "0123456789abcdef0123456789abcdef"

_UNAVAILABLE = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The database is locked.", retry_after_s=1.0)


def made_task(
    state: task_pb2.TaskState.ValueType = task_pb2.TASK_STATE_QUEUED, *, progress: int = 0, failure: generation_pb2.Failure | None = None
) -> task_pb2.Task:
    """A task with the video of this module as its result where it is done."""
    task = task_pb2.Task(task_id=TASK_ID, state=state, progress=progress, failure=failure)
    task.request.model = "anisora"
    task.request.seed = 7
    task.created_at.FromJsonString("2026-01-01T00:00:00Z")
    if state == task_pb2.TASK_STATE_DONE:
        task.progress = 100
        task.result.CopyFrom(
            generation_pb2.Result(
                media_type="video/mp4",
                size_bytes=len(VIDEO),
                sha256=hashlib.sha256(VIDEO).hexdigest(),
                width=512,
                height=512,
                num_frames=17,
                fps=16,
            )
        )
    return task


@dataclass
class Script:
    """What the double answers, and what it was asked.

    Attributes:
        refusal: raised by every call while set.
        watched: the states that one WatchTask tells, with what came with each as its `events`; None or an error breaks the stream there.
        pages: what WatchEvents tells; None or an error in between breaks the stream there.
        watched_after: after_sequence of every watch, of tasks and of events.
        video: what ReadResult sends.
        breaks_at: offset at which ReadResult breaks once.
        snapshot: what GetSnapshot tells.
        uploads: what UploadInput got.
        submitted: what SubmitTask got.
        breaks_submission: SubmitTask breaks once.
        told: what operators said.
        read_offsets: where ReadResult was asked to begin.
        hangs: WatchTask stays open, silent, after its states.
        imports: the parts of every ImportTask.
        outcomes: what ImportTask answers, once each; IMPORTED when there are none left.
    """

    refusal: ServiceError | None = None
    watched: list[task_pb2.Task | ServiceError | None] = field(default_factory=list)
    pages: list[operator_service_pb2.WatchEventsResponse | ServiceError | None] = field(default_factory=list)
    watched_after: list[int] = field(default_factory=list)
    event_requests: list[operator_service_pb2.WatchEventsRequest] = field(default_factory=list)
    submissions: list[pb.SubmitTaskRequest] = field(default_factory=list)
    breaks_submission: bool = False
    told: list[tuple[str, object]] = field(default_factory=list)
    video: bytes = VIDEO
    breaks_at: int | None = None
    snapshot: operator_service_pb2.GetSnapshotResponse = field(default_factory=operator_service_pb2.GetSnapshotResponse)
    uploads: list[bytes] = field(default_factory=list)
    submitted: list[generation_pb2.GenerationRequest] = field(default_factory=list)
    read_offsets: list[int] = field(default_factory=list)
    hangs: bool = False
    imports: list[list[operator_service_pb2.ImportTaskRequest]] = field(default_factory=list)
    outcomes: list[operator_service_pb2.ImportOutcome.ValueType | ServiceError] = field(default_factory=list)


class AdmissionDouble(admission_service_pb2_grpc.AdmissionServiceServicer):
    """The client side of admission, as scripted."""

    def __init__(self, script: Script) -> None:
        """Answers by the script."""
        self._script = script

    def _refuse(self) -> None:
        if self._script.refusal is not None:
            raise self._script.refusal

    async def UploadInput(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.UploadInputRequest], context: object
    ) -> pb.UploadInputResponse:
        """Keeps the bytes."""
        content = b"".join([request.chunk async for request in request_iterator])
        self._refuse()
        self._script.uploads.append(content)
        image = generation_pb2.InputImage(key="inputs/" + hashlib.sha256(content).hexdigest())
        return pb.UploadInputResponse(image=image)

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: object) -> pb.SubmitTaskResponse:  # noqa: N802
        """Accepts."""
        self._refuse()
        self._script.submitted.append(request.request)
        self._script.submissions.append(request)
        if self._script.breaks_submission:
            self._script.breaks_submission = False
            raise ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Admission is stopping.", metadata={"admission": "stopping"})
        return pb.SubmitTaskResponse(task=made_task())

    async def SubmitTasks(self, request: pb.SubmitTasksRequest, context: object) -> pb.SubmitTasksResponse:  # noqa: N802
        """Commands ask for one video at a time."""
        raise AssertionError

    async def GetTask(self, request: pb.GetTaskRequest, context: object) -> pb.GetTaskResponse:  # noqa: N802
        """Tells the first state of the script."""
        self._refuse()
        return pb.GetTaskResponse(task=next((one for one in self._script.watched if isinstance(one, task_pb2.Task)), made_task()))

    async def CancelTask(self, request: pb.CancelTaskRequest, context: object) -> pb.CancelTaskResponse:  # noqa: N802
        """Cancels."""
        self._refuse()
        return pb.CancelTaskResponse(task=made_task(task_pb2.TASK_STATE_CANCELLED))

    async def WatchTask(self, request: pb.WatchTaskRequest, context: object) -> AsyncIterator[pb.WatchTaskResponse]:  # noqa: N802
        """Tells the states of the script, once each; their events are told beside them."""
        self._refuse()
        self._script.watched_after.append(request.after_sequence)
        while self._script.watched:
            state = self._script.watched.pop(0)
            if not isinstance(state, task_pb2.Task):
                raise state or _UNAVAILABLE
            events = list(state.events)
            del state.events[:]
            yield pb.WatchTaskResponse(task=state, events=events, last_sequence=max((one.sequence for one in events), default=0))
        if self._script.hangs:
            await asyncio.Event().wait()

    async def ReadResult(self, request: pb.ReadResultRequest, context: object) -> AsyncIterator[pb.ReadResultResponse]:  # noqa: N802
        """Sends the video from the offset on."""
        self._refuse()
        self._script.read_offsets.append(request.offset)
        for start in range(request.offset, len(self._script.video), 256 * 1024):
            if self._script.breaks_at == start:
                self._script.breaks_at = None
                raise _UNAVAILABLE
            total = len(self._script.video) if start == request.offset else 0
            yield pb.ReadResultResponse(chunk=self._script.video[start : start + 256 * 1024], total_bytes=total)

    async def ListTasks(self, request: pb.ListTasksRequest, context: object) -> pb.ListTasksResponse:  # noqa: N802
        """No command asks for it."""
        raise AssertionError

    async def DeleteTask(self, request: pb.DeleteTaskRequest, context: object) -> pb.DeleteTaskResponse:  # noqa: N802
        """No command asks for it."""
        raise AssertionError

    async def ListModels(self, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:  # noqa: N802
        """No command asks for it."""
        raise AssertionError


class OperatorDouble(operator_service_pb2_grpc.OperatorServiceServicer):
    """The operator side of admission, as scripted."""

    def __init__(self, script: Script) -> None:
        """Answers by the script."""
        self._script = script

    async def GetSnapshot(  # noqa: N802
        self, request: operator_service_pb2.GetSnapshotRequest, context: object
    ) -> operator_service_pb2.GetSnapshotResponse:
        """Tells the snapshot of the script."""
        if self._script.refusal is not None:
            raise self._script.refusal
        return self._script.snapshot

    async def WatchEvents(  # noqa: N802
        self, request: operator_service_pb2.WatchEventsRequest, context: object
    ) -> AsyncIterator[operator_service_pb2.WatchEventsResponse]:
        """Tells the pages of the script, once each."""
        self._script.watched_after.append(request.after_sequence)
        self._script.event_requests.append(request)
        while self._script.pages:
            page = self._script.pages.pop(0)
            if not isinstance(page, operator_service_pb2.WatchEventsResponse):
                raise page or _UNAVAILABLE
            yield page

    async def ImportTask(  # noqa: N802
        self, request_iterator: AsyncIterator[operator_service_pb2.ImportTaskRequest], context: object
    ) -> operator_service_pb2.ImportTaskResponse:
        """Keeps what comes; answers as scripted, once each, and in the end that it is imported."""
        parts = [part async for part in request_iterator]
        self._script.imports.append(parts)
        answer = self._script.outcomes.pop(0) if self._script.outcomes else operator_service_pb2.IMPORT_OUTCOME_IMPORTED
        if isinstance(answer, Exception):
            raise answer
        return operator_service_pb2.ImportTaskResponse(outcome=answer)

    async def DrainLane(  # noqa: N802
        self, request: operator_service_pb2.DrainLaneRequest, context: object
    ) -> operator_service_pb2.DrainLaneResponse:
        """Does it."""
        self._script.told.append((request.lane_id, request.resume))
        lane = operator_service_pb2.LaneSnapshot(
            lane_id=request.lane_id, drained=not request.resume, availability=operator_service_pb2.AVAILABILITY_READY
        )
        return operator_service_pb2.DrainLaneResponse(lane=lane)

    async def SetFallback(  # noqa: N802
        self, request: operator_service_pb2.SetFallbackRequest, context: object
    ) -> operator_service_pb2.SetFallbackResponse:
        """Does it."""
        self._script.told.append((request.model, request.enabled))
        reason = task_pb2.FALLBACK_REASON_MANUAL if request.enabled else task_pb2.FALLBACK_REASON_UNSPECIFIED
        queue = operator_service_pb2.QueueSnapshot(model=request.model, manual_fallback=request.enabled, fallback_reason=reason)
        return operator_service_pb2.SetFallbackResponse(queue=queue)

    async def ReportCapacity(  # noqa: N802
        self, request: operator_service_pb2.ReportCapacityRequest, context: object
    ) -> operator_service_pb2.ReportCapacityResponse:
        """No command says it."""
        raise AssertionError


def serving(script: Script, credentials: ServerCredentials = OPEN_SERVER) -> GrpcServer:
    """A server that answers by the script; its user starts and stops it."""
    return GrpcServer(
        "127.0.0.1:0",
        {
            "warmlane.admission.v1.AdmissionService": lambda server: admission_service_pb2_grpc.add_AdmissionServiceServicer_to_server(
                AdmissionDouble(script), server
            ),
            "warmlane.admission.v1.OperatorService": lambda server: operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(
                OperatorDouble(script), server
            ),
        },
        credentials=credentials,
    )
