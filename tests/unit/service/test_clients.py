"""AdmissionService over a real channel, with a double behind it."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import obstore
import pytest
from obstore.store import MemoryStore
from PIL import Image
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.generation.v1 import generation_pb2

from admission.core.commands import OverloadCause, ReplyOverloaded
from admission.core.tasks import Event, MemoryRecord, Result, TaskState
from admission.engine_types import OverloadedError
from admission.service import clients
from admission.service.clients import MAX_UPLOAD_CHUNK_BYTES
from admission.service.doors import Doors
from admission.service.files import Files
from admission.store.port import StoreUnavailableError, TaskSort
from runtime.errors import ServiceError
from runtime.images import InvalidImageError
from runtime.objects import attempt_prefix, input_key
from runtime.rpc import service_error
from runtime.rules.catalogue import MODELS
from tests.unit.service.conftest import Stack
from tests.unit.service.double import AT, TASK_ID, ControllerDouble, a_task, a_view

if TYPE_CHECKING:
    from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceAsyncStub

VIDEO_KEY = attempt_prefix(TASK_ID, 1) + "video.mp4"
PREVIEW_KEY = attempt_prefix(TASK_ID, 1) + "preview.jpg"
UNKNOWN = "f" * 32


def _stub(stack: Stack) -> AdmissionServiceAsyncStub:
    return AdmissionServiceStub(stack.channel)


async def _error(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value)


def _submit(**fields: Any) -> pb.SubmitTaskRequest:
    values = {"model": "anisora", "prompt": "a lake"} | fields
    return pb.SubmitTaskRequest(request=generation_pb2.GenerationRequest(**values), owner="key")


def _png(size: tuple[int, int] = (32, 16)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, "teal").save(content, "PNG")
    return content.getvalue()


def _chunks(content: bytes, size: int = 64 * 1024) -> Iterator[pb.UploadInputRequest]:
    for start in range(0, len(content), size):
        yield pb.UploadInputRequest(chunk=content[start : start + size])


def _done() -> Result:
    return Result(
        video_key=VIDEO_KEY,
        media_type="video/webm",
        size_bytes=1,
        sha256="0" * 64,
        preview_key=PREVIEW_KEY,
        width=720,
        height=1280,
        num_frames=81,
        fps=16,
    )


async def test_checked_request_reaches_the_engine_when_it_is_submitted(stack: Stack) -> None:
    answer = await _stub(stack).SubmitTask(_submit(width=512, height=512), timeout=5)

    [(request, owner)] = stack.controller.submitted
    assert (request.width, request.num_frames, request.steps, owner) == (512, 81, 8, "key")
    assert answer.task.task_id == TASK_ID
    assert answer.task.state == task_pb2.TASK_STATE_QUEUED
    assert (answer.task.request.prompt, answer.task.request.seed) == ("a lake", 7)


async def test_every_wrong_field_is_named_when_a_request_breaks_the_rules(stack: Stack) -> None:
    error = await _error(_stub(stack).SubmitTask(_submit(prompt=" ", steps=9, width=8), timeout=5))

    assert error.code == "validation_error"
    assert {violation.field for violation in error.violations} == {"prompt", "steps", "width"}
    assert not stack.controller.submitted


async def test_fields_are_named_when_their_images_were_not_uploaded(stack: Stack) -> None:
    there, away = input_key(b"there"), input_key(b"away")
    await obstore.put_async(stack.objects, there, b"there")
    frames = [
        generation_pb2.ArbitraryFrame(frame_index=index, image=generation_pb2.InputImage(key=key))
        for index, key in ((0, there), (8, away), (16, away))
    ]

    error = await _error(_stub(stack).SubmitTask(_submit(mode="arbitrary_frame", arbitrary_frames=frames), timeout=5))

    assert error.code == "validation_error"
    assert [violation.field for violation in error.violations] == ["arbitrary_frames[1].image", "arbitrary_frames[2].image"]
    assert not stack.controller.submitted


async def test_request_with_an_image_is_accepted_when_it_was_uploaded(stack: Stack) -> None:
    uploaded = await _stub(stack).UploadInput(_chunks(_png()), timeout=5)

    await _stub(stack).SubmitTask(_submit(mode="i2v", reference_image=uploaded.image), timeout=5)

    [(request, _)] = stack.controller.submitted
    assert [image.key for image in request.images()] == [uploaded.image.key]


@pytest.mark.parametrize("cause", list(OverloadCause))
async def test_bounds_and_retry_are_told_when_the_queue_is_overloaded(stack: Stack, cause: OverloadCause) -> None:
    reply = ReplyOverloaded(task_id=TASK_ID, cause=cause, depth=25, max_depth=25, waited_s=30.0, max_wait_s=30.0, retry_after_s=12.25)
    stack.controller.answer = OverloadedError(reply)

    error = await _error(_stub(stack).SubmitTask(_submit(), timeout=5))

    assert error.code == "queue_overloaded"
    assert error.metadata == {"cause": cause.value, "depth": "25", "max_depth": "25", "waited_s": "30.000", "max_wait_s": "30.000"}
    assert error.retry_after_s == 12.25


async def test_submit_is_unavailable_when_the_store_is(stack: Stack) -> None:
    stack.controller.answer = StoreUnavailableError("disk full")

    error = await _error(_stub(stack).SubmitTask(_submit(), timeout=5))

    assert (error.code, error.retry_after_s) == ("service_unavailable", 5.0)


async def test_place_is_freed_when_the_caller_hangs_up(stack: Stack) -> None:
    stack.controller.answer = None
    call = _stub(stack).SubmitTask(_submit(), timeout=30)
    code = asyncio.ensure_future(call.code())
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    call.cancel()

    await asyncio.wait_for(stack.controller.left.wait(), 5)
    assert await code is grpc.StatusCode.CANCELLED


async def test_place_is_freed_when_the_callers_deadline_passes(stack: Stack) -> None:
    stack.controller.answer = None

    error = await _error(_stub(stack).SubmitTask(_submit(), timeout=0.3))

    await asyncio.wait_for(stack.controller.left.wait(), 5)
    assert (error.code, error.metadata) == ("service_unavailable", {"grpc_status": "deadline_exceeded"})


async def test_wait_ends_with_unavailable_when_admission_stops(stack: Stack) -> None:
    stack.controller.answer = None
    call = asyncio.ensure_future(_error(_stub(stack).SubmitTask(_submit(), timeout=30)))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    stack.doors.close()

    assert (await call).code == "service_unavailable"
    assert stack.controller.left.is_set()
    assert (await _error(_stub(stack).SubmitTask(_submit(), timeout=5))).code == "service_unavailable"


async def test_owner_is_refused_when_it_is_too_long(stack: Stack) -> None:
    error = await _error(_stub(stack).SubmitTask(pb.SubmitTaskRequest(owner="x" * 129), timeout=5))

    assert [violation.field for violation in error.violations] == ["owner"]


async def test_task_comes_with_its_events_when_asked_for(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(), queue_position=0, eta_s=12.5)
    figures = {"device": "cuda:0", "peak_allocated_bytes": 2**40}
    stack.controller.events = (Event(event_type="memory_record", created_at=AT, attempt=1, memory=MemoryRecord(figures=figures)),)

    task = (await _stub(stack).GetTask(pb.GetTaskRequest(task_id=TASK_ID), timeout=5)).task

    assert (task.HasField("queue_position"), task.queue_position, task.eta.ToMilliseconds()) == (True, 0, 12_500)
    assert [(event.event_type, event.memory.peak_allocated_bytes) for event in task.events] == [("memory_record", 2**40)]


@pytest.mark.parametrize("task_id", [UNKNOWN, "", "../etc", "0" * 33])
async def test_every_call_says_not_found_when_there_is_no_such_task(stack: Stack, task_id: str) -> None:
    stub = _stub(stack)

    errors = [
        await _error(stub.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=5)),
        await _error(stub.CancelTask(pb.CancelTaskRequest(task_id=task_id), timeout=5)),
        await _error(stub.DeleteTask(pb.DeleteTaskRequest(task_id=task_id), timeout=5)),
        await _error(stub.WatchTask(pb.WatchTaskRequest(task_id=task_id), timeout=5).read()),
        await _error(stub.ReadResult(pb.ReadResultRequest(task_id=task_id), timeout=5).read()),
    ]

    assert {error.code for error in errors} == {"task_not_found"}


async def test_task_is_forgotten_when_it_is_deleted(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())

    await _stub(stack).DeleteTask(pb.DeleteTaskRequest(task_id=TASK_ID), timeout=5)

    assert stack.controller.deleted == [TASK_ID]


async def test_task_afterwards_is_the_answer_when_it_is_cancelled(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.CANCELLED))

    answer = await _stub(stack).CancelTask(pb.CancelTaskRequest(task_id=TASK_ID), timeout=5)

    assert answer.task.state == task_pb2.TASK_STATE_CANCELLED


async def test_watch_shows_each_view_and_ends_when_the_engine_ends_it(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())
    for view in (a_view(a_task(), queue_position=1), a_view(a_task(TaskState.DONE, result=_done())), None):
        stack.controller.views.put_nowait(view)

    seen = [answer.task.state async for answer in _stub(stack).WatchTask(pb.WatchTaskRequest(task_id=TASK_ID), timeout=5)]

    assert seen == [task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_DONE]


async def test_watch_is_closed_when_the_reader_hangs_up(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())
    stack.controller.views.put_nowait(a_view(a_task()))
    call = _stub(stack).WatchTask(pb.WatchTaskRequest(task_id=TASK_ID), timeout=30)
    await call.read()

    call.cancel()

    await asyncio.wait_for(stack.controller.left.wait(), 5)


async def test_watch_ends_with_unavailable_when_admission_stops(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())
    call = _stub(stack).WatchTask(pb.WatchTaskRequest(task_id=TASK_ID), timeout=30)
    reading = asyncio.ensure_future(_error(call.read()))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    stack.doors.close()

    assert (await reading).code == "service_unavailable"


async def test_page_is_asked_for_with_its_defaults_when_nothing_is_said(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())

    answer = await _stub(stack).ListTasks(pb.ListTasksRequest(), timeout=5)

    [query] = stack.controller.queries
    assert (query.page, query.page_size, query.sort, query.model, query.states) == (1, 20, TaskSort.CREATED_AT, None, frozenset())
    assert (len(answer.tasks), answer.total) == (1, 41)


async def test_page_is_narrowed_when_the_request_says_so(stack: Stack) -> None:
    request = pb.ListTasksRequest(page=3, page_size=100, sort=pb.TASK_SORT_WIDTH, model="phr00t", states=[task_pb2.TASK_STATE_DONE])

    await _stub(stack).ListTasks(request, timeout=5)

    [query] = stack.controller.queries
    assert (query.page, query.page_size, query.sort) == (3, 100, TaskSort.WIDTH)
    assert (query.model, query.states) == ("phr00t", frozenset({TaskState.DONE}))


async def test_page_is_refused_when_its_bounds_make_no_sense(stack: Stack) -> None:
    request = pb.ListTasksRequest(page=-1, page_size=101, sort=99, states=[0])  # type: ignore[arg-type,list-item]

    error = await _error(_stub(stack).ListTasks(request, timeout=5))

    assert [violation.field for violation in error.violations] == ["page", "page_size", "sort", "states"]


async def test_models_are_those_of_the_rule_set(stack: Stack) -> None:
    answer = await _stub(stack).ListModels(pb.ListModelsRequest(), timeout=5)

    assert [model.id for model in answer.models] == list(MODELS)
    assert answer.models[0].fixed_parameters["steps"] == 8
    assert "properties" in answer.models[0].parameters_schema


async def test_image_is_stored_by_content_when_it_is_uploaded(stack: Stack) -> None:
    content = _png((32, 16))

    answers = [await _stub(stack).UploadInput(_chunks(content, 100), timeout=5) for _ in range(2)]

    assert [answer.image.key for answer in answers] == [input_key(content)] * 2
    assert (answers[0].width, answers[0].height, answers[0].media_type) == (32, 16, "image/png")
    assert stack.stored() == [input_key(content)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"plainly no image", "not PNG, JPEG or WebP"),
        (_png()[:-20], "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + bytes(12 * 1024 * 1024), "larger than 12 MiB"),
    ],
    ids=["empty", "text", "cut short", "too large"],
)
async def test_nothing_is_stored_when_an_upload_is_no_acceptable_image(stack: Stack, content: bytes, said: str) -> None:
    error = await _error(_stub(stack).UploadInput(_chunks(content), timeout=10))

    assert error.code == "validation_error"
    assert said in error.violations[0].message
    assert stack.stored() == []


async def test_upload_is_refused_when_a_chunk_is_too_large(stack: Stack) -> None:
    error = await _error(_stub(stack).UploadInput(_chunks(bytes(2 * MAX_UPLOAD_CHUNK_BYTES), MAX_UPLOAD_CHUNK_BYTES + 1), timeout=5))

    assert "at most 1048576 bytes" in error.violations[0].message


@pytest.mark.parametrize("offset", [0, 1, 256 * 1024, 599_999, 600_000])
async def test_rest_of_the_file_is_read_when_a_result_is_read_from_an_offset(stack: Stack, offset: int) -> None:
    content = bytes(range(250)) * 2400  # 600,000 bytes
    await obstore.put_async(stack.objects, VIDEO_KEY, content)
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))

    answers = [answer async for answer in _stub(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID, offset=offset), timeout=10)]

    assert b"".join(answer.chunk for answer in answers) == content[offset:]
    assert max(len(answer.chunk) for answer in answers) <= 256 * 1024
    assert (answers[0].total_bytes, answers[0].media_type) == (600_000, "video/webm")
    assert not any(answer.total_bytes or answer.media_type for answer in answers[1:])


async def test_preview_is_read_when_it_is_asked_for(stack: Stack) -> None:
    await obstore.put_async(stack.objects, PREVIEW_KEY, b"jpeg")
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))
    request = pb.ReadResultRequest(task_id=TASK_ID, file=pb.RESULT_FILE_PREVIEW)

    answers = [answer async for answer in _stub(stack).ReadResult(request, timeout=5)]

    assert [(answer.chunk, answer.media_type) for answer in answers] == [(b"jpeg", "image/jpeg")]


@pytest.mark.parametrize("offset", [-1, 5])
async def test_result_is_refused_when_the_offset_is_outside_the_file(stack: Stack, offset: int) -> None:
    await obstore.put_async(stack.objects, VIDEO_KEY, b"four")
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))

    error = await _error(_stub(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID, offset=offset), timeout=5).read())

    assert [violation.field for violation in error.violations] == ["offset"]


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.LEASED, TaskState.FAILED, TaskState.CANCELLED])
async def test_result_is_refused_when_the_task_is_not_done(stack: Stack, state: TaskState) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(state))

    error = await _error(_stub(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID), timeout=5).read())

    assert error.code == "task_not_done"


async def test_result_is_not_found_when_its_file_is_gone(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))

    error = await _error(_stub(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID), timeout=5).read())

    assert error.code == "task_not_found"


async def test_calls_say_unavailable_when_the_object_store_fails(stack: Stack) -> None:
    # A file where the folder should be: every write and read below it fails, as on a broken disk.
    stack.folder.rmdir()
    stack.folder.write_bytes(b"")

    error = await _error(_stub(stack).UploadInput(_chunks(_png()), timeout=10))

    assert (error.code, error.retry_after_s) == ("service_unavailable", 5.0)


async def test_place_is_kept_until_the_decoder_ends_when_the_caller_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # The place was free as soon as the caller left, while its thread decoded on: any number of them could run at once.
    begun, ending = threading.Semaphore(0), threading.Event()
    running: list[bytes] = []

    def decode(content: bytes) -> None:
        running.append(content)
        begun.release()
        ending.wait(5)
        raise InvalidImageError

    async def upload(content: bytes) -> object:
        async def requests() -> AsyncIterator[pb.UploadInputRequest]:
            yield pb.UploadInputRequest(chunk=content)

        return await service.UploadInput(requests(), None)

    monkeypatch.setattr(clients, "check_image", decode)
    doors = Doors()
    doors.open()
    service = clients.AdmissionService(controller=ControllerDouble(), files=Files(MemoryStore()), doors=doors)
    try:
        left = [asyncio.create_task(upload(content)) for content in (b"1", b"2")]
        for _ in left:
            assert await asyncio.to_thread(begun.acquire, timeout=5)
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=5)
        third = asyncio.create_task(upload(b"3"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert sorted(running) == [b"1", b"2"]
    finally:
        ending.set()
    with pytest.raises(ServiceError):
        await asyncio.wait_for(third, 5)
    assert running[2:] == [b"3"]
