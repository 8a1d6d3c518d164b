"""A stand-in for admission in tests of the bridge: its services for clients over plain dictionaries, on a real gRPC port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from warmlane.admission.v1 import access_service_pb2_grpc, admission_service_pb2_grpc, operator_service_pb2_grpc
from warmlane.admission.v1 import admission_service_pb2 as admission_pb2
from warmlane.admission.v1.task_pb2 import Stage, Task, TaskState
from warmlane.generation.v1.generation_pb2 import Failure, GenerationRequest

from runtime.credentials import OPEN_SERVER, ServerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc import GrpcServer
from runtime.rpc_errors import to_status
from runtime.rules.catalogue import MODELS
from runtime.rules.request import Violation
from tests.harness.access_double import Access, AccessDouble, Operator, stamp

CREATED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def make_task(task_id: str, **fields: Any) -> Task:
    """A queued task, but for the given fields."""
    task = Task(task_id=task_id, state=TaskState.TASK_STATE_QUEUED, stage=Stage.STAGE_QUEUED, created_at=stamp(CREATED_AT))
    task.updated_at.CopyFrom(task.created_at)
    task.request.model, task.request.mode, task.request.prompt = "anisora", "t2v", "a lake"
    task.request.width, task.request.height, task.request.seed = 512, 512, 7
    task.MergeFrom(Task(**fields))
    return task


@dataclass
class AdmissionDouble(AccessDouble):
    """What tests set and look at, beside what they do of access.

    Attributes:
        tasks: by id.
        hold: when set, SubmitTask waits for it, as it does for a place in the degraded pool.
        submitted: requests and owners of SubmitTask and SubmitTasks, in order.
        holding: set while a SubmitTask waits.
        given_back: set when a SubmitTask that waited was cancelled by its caller.
        loses_reply: the next SubmitTask or SubmitTasks accepts and never says so.
        gathered: how many of the submitted came by SubmitTasks.
        changed: set it after a task was changed; who watches it is told.
        listed: the ListTasks requests, in order.
        accepted: request and task by owner and request id.
        server: what serves it; stop it to take admission away, `restart` to bring it back at the same address.
    """

    server: GrpcServer | None = None
    accepted: dict[tuple[str, str], tuple[GenerationRequest, str]] = field(default_factory=dict)

    tasks: dict[str, Task] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    loses_reply: bool = False
    gathered: int = 0
    submitted: list[admission_pb2.SubmitTaskRequest] = field(default_factory=list)
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    given_back: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    listed: list[admission_pb2.ListTasksRequest] = field(default_factory=list)

    def find(self, task_id: str) -> Task:
        """The task; ServiceError when there is none or every call is refused."""
        self.check_refusal()
        if task_id not in self.tasks:
            raise ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="There is no such task.")
        return self.tasks[task_id]

    async def stop(self) -> None:
        """Takes admission away, with every call in work."""
        assert self.server is not None
        await self.server.stop(0)

    async def restart(self) -> None:
        """Serves at the same address again, with what it knew."""
        assert self.server is not None
        self.server = _server(self, f"127.0.0.1:{self.server.port}")
        await self.server.start()


class _Admission(admission_service_pb2_grpc.AdmissionServiceServicer):
    """Only what the bridge calls; the rest answers UNIMPLEMENTED."""

    def __init__(self, double: AdmissionDouble) -> None:
        self._double = double

    async def SubmitTask(self, request: admission_pb2.SubmitTaskRequest, _context: object) -> admission_pb2.SubmitTaskResponse:  # noqa: N802
        self._double.check_refusal()
        self._double.submitted.append(request)
        if self._double.hold is not None:
            self._double.holding.set()
            try:
                await self._double.hold.wait()
            except asyncio.CancelledError:
                self._double.given_back.set()
                raise
        answer = self._accept(request)
        if self._double.loses_reply:
            self._double.loses_reply = False
            self._double.holding.set()
            await asyncio.Event().wait()
        return answer

    async def SubmitTasks(self, request: admission_pb2.SubmitTasksRequest, _context: object) -> admission_pb2.SubmitTasksResponse:  # noqa: N802
        answers = [self._answer(item.submission) for item in request.items]
        if self._double.loses_reply:
            self._double.loses_reply = False
            self._double.holding.set()
            await asyncio.Event().wait()
        return admission_pb2.SubmitTasksResponse(answers=answers)

    def _answer(self, request: admission_pb2.SubmitTaskRequest) -> admission_pb2.SubmitTasksAnswer:
        try:
            self._double.check_refusal()
        except ServiceError as error:
            return admission_pb2.SubmitTasksAnswer(refusal=to_status(error)[1])
        if self._double.hold is not None or (request.owner, request.request_id) in self._double.accepted:
            return admission_pb2.SubmitTasksAnswer(ask_singly=True)
        self._double.submitted.append(request)
        self._double.gathered += 1
        return admission_pb2.SubmitTasksAnswer(task_id=self._accept(request).task.task_id)

    def _accept(self, request: admission_pb2.SubmitTaskRequest) -> admission_pb2.SubmitTaskResponse:
        key = (request.owner, request.request_id)
        if request.request_id and key in self._double.accepted:
            earlier, task_id = self._double.accepted[key]
            if earlier != request.request:
                wrong = (Violation(field="request_id", message="was used before for another request"),)
                raise ServiceError(code=ErrorCode.VALIDATION_ERROR, message="The request is invalid.", violations=wrong)
            return admission_pb2.SubmitTaskResponse(task=self._double.tasks[task_id], is_duplicate=True)
        task = make_task(f"{len(self._double.submitted):032x}")
        task.request.CopyFrom(request.request)
        self._double.tasks[task.task_id] = task
        if request.request_id:
            self._double.accepted[key] = (request.request, task.task_id)
        return admission_pb2.SubmitTaskResponse(task=task)

    async def GetTask(self, request: admission_pb2.GetTaskRequest, _context: object) -> admission_pb2.GetTaskResponse:  # noqa: N802
        return admission_pb2.GetTaskResponse(task=self._double.find(request.task_id))

    async def WatchTask(  # noqa: N802
        self, request: admission_pb2.WatchTaskRequest, _context: object
    ) -> AsyncIterator[admission_pb2.WatchTaskResponse]:
        while True:
            task = self._double.find(request.task_id)
            yield admission_pb2.WatchTaskResponse(task=task)
            if task.state not in (TaskState.TASK_STATE_QUEUED, TaskState.TASK_STATE_LEASED):
                return
            await self._double.changed.wait()
            self._double.changed.clear()

    async def ListTasks(self, request: admission_pb2.ListTasksRequest, _context: object) -> admission_pb2.ListTasksResponse:  # noqa: N802
        self._double.check_refusal()
        self._double.listed.append(request)
        tasks = [task for task in self._double.tasks.values() if task.state in request.states and request.model in ("", task.request.model)]
        tasks.sort(key=lambda task: task.created_at.ToNanoseconds(), reverse=True)
        first = (request.page - 1) * request.page_size
        return admission_pb2.ListTasksResponse(tasks=tasks[first : first + request.page_size], total=len(tasks))

    async def ListModels(self, _request: admission_pb2.ListModelsRequest, _context: object) -> admission_pb2.ListModelsResponse:  # noqa: N802
        self._double.check_refusal()
        size = admission_pb2.SizeLimit(width=480, height=832, max_num_frames=81, placement="streamed", predicted_peak_bytes=20 * 1024**3)
        limits = admission_pb2.ModelLimits(gpus=["NVIDIA A10G"], sizes=[size])
        weights = {"anisora": ["image_to_video_experts"]}
        models = [admission_pb2.Model(id=model, limits=limits, text_to_video_weights=weights.get(model, [])) for model in MODELS]
        return admission_pb2.ListModelsResponse(models=models)

    async def CancelTask(self, request: admission_pb2.CancelTaskRequest, _context: object) -> admission_pb2.CancelTaskResponse:  # noqa: N802
        task = self._double.find(request.task_id)
        if task.state in (TaskState.TASK_STATE_QUEUED, TaskState.TASK_STATE_LEASED):
            task.state, task.stage = TaskState.TASK_STATE_CANCELLED, Stage.STAGE_FAILED
            task.failure.CopyFrom(Failure(code="cancelled", message="The task was cancelled."))
        return admission_pb2.CancelTaskResponse(task=task)

    async def DeleteTask(self, request: admission_pb2.DeleteTaskRequest, _context: object) -> admission_pb2.DeleteTaskResponse:  # noqa: N802
        self._double.find(request.task_id)
        del self._double.tasks[request.task_id]
        return admission_pb2.DeleteTaskResponse()


def _server(double: AdmissionDouble, bind: str, credentials: ServerCredentials = OPEN_SERVER) -> GrpcServer:
    def add_admission(server: grpc.aio.Server) -> None:
        admission_service_pb2_grpc.add_AdmissionServiceServicer_to_server(_Admission(double), server)  # type: ignore[abstract]

    def add_access(server: grpc.aio.Server) -> None:
        access_service_pb2_grpc.add_AccessServiceServicer_to_server(Access(double), server)

    def add_operator(server: grpc.aio.Server) -> None:
        operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(Operator(double), server)  # type: ignore[abstract]

    services = {
        "warmlane.admission.v1.AdmissionService": add_admission,
        "warmlane.admission.v1.AccessService": add_access,
        "warmlane.admission.v1.OperatorService": add_operator,
    }
    return GrpcServer(bind, services, credentials=credentials)


@asynccontextmanager
async def admission_double(credentials: ServerCredentials = OPEN_SERVER) -> AsyncIterator[tuple[AdmissionDouble, str]]:
    """A double that serves, and its address."""
    double = AdmissionDouble()
    double.server = _server(double, "127.0.0.1:0", credentials)
    await double.server.start()
    try:
        yield double, f"127.0.0.1:{double.server.port}"
    finally:
        await double.stop()
