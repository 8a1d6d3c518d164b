"""AdmissionService: what clients call. Checks what they send, asks the engine, answers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceServicer

from admission.core.tasks import Model
from admission.service import convert
from admission.service.errors import check_sequence, invalid, unknown_task
from admission.service.recycling import STREAM_LIFE_S, StreamEnd
from admission.service.submitting import Submitting, submission_of
from runtime.errors import ErrorCode, ServiceError
from runtime.image_process import ImageCheckUnavailableError
from runtime.images import MAX_IMAGE_BYTES, InvalidImageError, check_image
from runtime.rules.catalogue import MODELS
from runtime.rules.request import Violation
from runtime.traces import names
from runtime.traces.current import annotate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from admission.core.tasks import TaskId
    from admission.engine_types import Accepted, TaskView
    from admission.service.doors import Doors
    from admission.service.files import Files
    from admission.service.port import Controller
    from runtime.images import CheckedImage
    from runtime.rpc_observer import RpcObserver
    from runtime.rules.request import GenerationRequest
    from runtime.traces.rpc import RpcTraces

MAX_UPLOAD_CHUNK_BYTES = 1024 * 1024
# A sender that pauses for longer keeps its bytes in our memory for nothing.
_UPLOAD_PAUSE_S = 30.0
_RETRY_AFTER_S = 5.0
IMAGES_AT_ONCE = 2
"""Input images that are looked at at a time; one takes up to 250 MiB meanwhile."""


class AdmissionService(AdmissionServiceServicer):
    """For the bridge, the command line and engineers."""

    def __init__(
        self,
        *,
        controller: Controller,
        files: Files,
        doors: Doors,
        stream_life_s: float = STREAM_LIFE_S,
        check_image: Callable[[bytes], CheckedImage] = check_image,
        observer: RpcObserver | None = None,
        traces: RpcTraces | None = None,
    ) -> None:
        """Serves this controller's tasks and these files; watches end after the life of a stream. `check_image` runs in a thread. Each of
        several submissions in one call is told to `observer` and `traces` as a call of its own."""
        self._controller = controller
        self._files = files
        self._doors = doors
        self._stream_life_s = stream_life_s
        self._check_image = check_image
        self._decoding = asyncio.Semaphore(IMAGES_AT_ONCE)
        self._together = Submitting(controller, observer=observer, traces=traces)

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: object) -> pb.SubmitTaskResponse:
        """Routing step 1 here, all others in the engine. A caller that hangs up cancels this, which frees its place."""
        self._doors.check()
        try:
            submission = submission_of(request)
            annotate(names.MODEL, submission.request.model)
            if submission.request.images():
                await self._check_images(submission.request)
            accepted = await self._doors.hold(self._controller.submit(submission))
        except Exception:
            annotate(names.DECISION, "refused")
            raise
        annotate(names.TASK, accepted.task.task_id)
        annotate(names.DECISION, _decision(accepted))
        return convert.acceptance(accepted.task, is_duplicate=accepted.is_duplicate)

    async def SubmitTasks(self, request: pb.SubmitTasksRequest, context: object) -> pb.SubmitTasksResponse:
        """Each as SubmitTask would, as far as it can be done at once. A caller that hangs up leaves all of them."""
        self._doors.check()
        return await self._doors.hold(self._together.submit(request))

    async def GetTask(self, request: pb.GetTaskRequest, context: object) -> pb.GetTaskResponse:
        """The task with its events."""
        self._doors.check()
        view = await self._view(request.task_id, request.only_owner)
        return pb.GetTaskResponse(task=convert.task(view, await self._controller.task_events(view.task.task_id)))

    async def WatchTask(self, request: pb.WatchTaskRequest, context: object) -> AsyncIterator[pb.WatchTaskResponse]:
        """The task now and after every change, with what was recorded, until it has ended or the stream is old."""
        self._doors.check()
        task_id, end = _known(request.task_id), StreamEnd(self._stream_life_s)
        check_sequence(request.after_sequence)
        await self._check_owner(task_id, request.only_owner)
        async with aclosing(self._controller.watch(task_id, request.after_sequence)) as changes:
            while (change := await self._doors.hold(end.before(anext(changes, None)))) is not None:
                yield convert.task_change(change)

    async def ListTasks(self, request: pb.ListTasksRequest, context: object) -> pb.ListTasksResponse:
        """One page of tasks, without events."""
        self._doors.check()
        return convert.task_page(await self._controller.page(convert.task_query(request)))

    async def CancelTask(self, request: pb.CancelTaskRequest, context: object) -> pb.CancelTaskResponse:
        """The task afterwards."""
        self._doors.check()
        task_id = _known(request.task_id)
        await self._check_owner(task_id, request.only_owner)
        return pb.CancelTaskResponse(task=convert.task(await self._controller.cancel(task_id, only_waiting=request.only_waiting)))

    async def DeleteTask(self, request: pb.DeleteTaskRequest, context: object) -> pb.DeleteTaskResponse:
        """Forgets the task and its files."""
        self._doors.check()
        task_id = _known(request.task_id)
        await self._check_owner(task_id, request.only_owner)
        await self._controller.delete(task_id)
        return pb.DeleteTaskResponse()

    async def ListModels(self, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:
        """The rule set, for clients, and what fits on the lanes."""
        return convert.models({model: self._controller.model_limits(Model(model)) for model in MODELS})

    async def UploadInput(self, request_iterator: AsyncIterator[pb.UploadInputRequest], context: object) -> pb.UploadInputResponse:
        """Checks the image whole before anything is stored."""
        self._doors.check()
        content = await _upload(request_iterator)
        try:
            image = await self._checked(content)
        except InvalidImageError as error:
            raise invalid(Violation(field="chunk", message=str(error))) from error
        except ImageCheckUnavailableError as error:
            message = f"The server cannot look at images now: {error}."
            raise ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message=message, retry_after_s=_RETRY_AFTER_S) from error
        return convert.uploaded(await self._files.put_input(content), image)

    async def ReadResult(self, request: pb.ReadResultRequest, context: object) -> AsyncIterator[pb.ReadResultResponse]:
        """One file of a done task, from an offset on."""
        self._doors.check()
        view = await self._view(request.task_id, request.only_owner)
        if not convert.is_done(view):
            raise ServiceError(code=ErrorCode.TASK_NOT_DONE, message=f"The task is {view.task.state}, it has no result to read.")
        key, media_type = convert.result_file(view, request.file)
        total_bytes = await self._files.size(key)
        if total_bytes is None:
            raise ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="The files of this task are gone.")
        if not 0 <= request.offset <= total_bytes:
            raise invalid(Violation(field="offset", message=f"must be 0 to {total_bytes}, the size of the file"))
        first = pb.ReadResultResponse(total_bytes=total_bytes, media_type=media_type)
        if request.offset == total_bytes:
            yield first
            return
        async with aclosing(self._files.read(key, request.offset)) as chunks:
            async for chunk in chunks:
                first.chunk = chunk
                yield first
                first = pb.ReadResultResponse()

    async def _view(self, text: str, only_owner: str) -> TaskView:
        """The task; one that the caller may not see is not there."""
        view = await self._controller.task(_known(text))
        if view is None or (only_owner and view.task.owner != only_owner):
            raise unknown_task()
        return view

    async def _check_owner(self, task_id: TaskId, only_owner: str) -> None:
        """Before anything is done or told: a task keeps its owner, so what is found here holds. Without an owner nothing is looked up."""
        if only_owner:
            await self._view(task_id, only_owner)

    async def _checked(self, content: bytes) -> CheckedImage:
        """The image, decoded in a thread. Nothing can stop a thread: its place is free when it ends, not when the caller leaves."""
        await self._decoding.acquire()
        decoding = asyncio.get_running_loop().run_in_executor(None, self._check_image, content)
        decoding.add_done_callback(lambda _: self._decoding.release())
        return await asyncio.shield(decoding)

    async def _check_images(self, request: GenerationRequest) -> None:
        """Every image must have come in before; raises `validation_error` naming the fields of those that did not."""
        named = _image_fields(request)
        if not named:
            return
        missing = await self._files.missing([key for _, key in named])
        if missing:
            message = "names no stored image; upload it first and use the key that the upload gives"
            raise invalid(*(Violation(field=field, message=message) for field, key in named if key in missing))


def _decision(accepted: Accepted) -> str:
    """For traces; one that is refused has its code there."""
    if accepted.is_duplicate:
        return "duplicate"
    return "accepted" if accepted.task.created_at == accepted.task.queued_at else "held"


def _known(text: str) -> TaskId:
    task_id = convert.task_id(text)
    if task_id is None:
        raise unknown_task()
    return task_id


def _image_fields(request: GenerationRequest) -> list[tuple[str, str]]:
    """Field name and key of every image of the request, in field order."""
    single = [
        ("reference_image", request.reference_image),
        ("first_frame_image", request.first_frame_image),
        ("last_frame_image", request.last_frame_image),
    ]
    named = [(field, image.key) for field, image in single if image is not None]
    frames = [(f"arbitrary_frames[{index}].image", frame.image.key) for index, frame in enumerate(request.arbitrary_frames)]
    return named + frames


async def _upload(requests: AsyncIterator[pb.UploadInputRequest]) -> bytes:
    """The whole file; refused as soon as it is too large."""
    content = bytearray()
    while True:
        try:
            async with asyncio.timeout(_UPLOAD_PAUSE_S):
                request = await anext(requests, None)
        except TimeoutError:
            raise invalid(Violation(field="chunk", message=f"did not come for {_UPLOAD_PAUSE_S:g} s")) from None
        if request is None:
            return bytes(content)
        if len(request.chunk) > MAX_UPLOAD_CHUNK_BYTES:
            raise invalid(Violation(field="chunk", message=f"must have at most {MAX_UPLOAD_CHUNK_BYTES} bytes"))
        content += request.chunk
        if len(content) > MAX_IMAGE_BYTES:
            raise invalid(Violation(field="chunk", message=f"The image is larger than {MAX_IMAGE_BYTES // 1024 // 1024} MiB."))
