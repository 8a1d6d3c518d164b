"""AdmissionService over a real channel, with a double behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import obstore
import pytest
from obstore.store import MemoryStore
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2

from admission.core.tasks import Event, LaneId, MemoryRecord, Model, Result, TaskState
from admission.service import clients
from admission.service.clients import MAX_UPLOAD_CHUNK_BYTES
from admission.service.doors import Doors
from admission.service.files import Files
from admission.store.port import TaskSort
from runtime.errors import ServiceError
from runtime.images import CheckedImage, InvalidImageError
from runtime.objects import attempt_prefix, input_key
from runtime.rules.catalogue import MODELS
from tests.unit.service.calls import chunks, client, error_of, png
from tests.unit.service.conftest import Stack
from tests.unit.service.double import AT, TASK_ID, ControllerDouble, a_change, a_task, a_view

VIDEO_KEY = attempt_prefix(TASK_ID, 1) + "video.mp4"
PREVIEW_KEY = attempt_prefix(TASK_ID, 1) + "preview.jpg"
UNKNOWN = "f" * 32


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


async def test_task_comes_with_its_events_when_asked_for(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(), queue_position=0, eta_s=12.5)
    figures = {"device": "cuda:0", "peak_allocated_bytes": 2**40}
    stack.controller.events = (Event(event_type="memory_record", created_at=AT, attempt=1, memory=MemoryRecord(figures=figures)),)

    task = (await client(stack).GetTask(pb.GetTaskRequest(task_id=TASK_ID), timeout=5)).task

    assert (task.HasField("queue_position"), task.queue_position, task.eta.ToMilliseconds()) == (True, 0, 12_500)
    assert [(event.event_type, event.memory.peak_allocated_bytes) for event in task.events] == [("memory_record", 2**40)]


@pytest.mark.parametrize("task_id", [UNKNOWN, "", "../etc", "0" * 33])
async def test_every_call_says_not_found_when_there_is_no_such_task(stack: Stack, task_id: str) -> None:
    stub = client(stack)

    errors = [
        await error_of(stub.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=5)),
        await error_of(stub.CancelTask(pb.CancelTaskRequest(task_id=task_id), timeout=5)),
        await error_of(stub.DeleteTask(pb.DeleteTaskRequest(task_id=task_id), timeout=5)),
        await error_of(stub.WatchTask(pb.WatchTaskRequest(task_id=task_id), timeout=5).read()),
        await error_of(stub.ReadResult(pb.ReadResultRequest(task_id=task_id), timeout=5).read()),
    ]

    assert {error.code for error in errors} == {"task_not_found"}


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.DONE, TaskState.FAILED])
async def test_every_call_answers_as_for_no_task_when_the_task_is_another_owners(stack: Stack, state: TaskState) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(state, owner="session:1", result=_done() if state is TaskState.DONE else None))
    unknown = await error_of(client(stack).GetTask(pb.GetTaskRequest(task_id=UNKNOWN), timeout=5))

    errors = await _refused(stack, TASK_ID, "session:2")

    assert {(error.code, error.message) for error in errors} == {("task_not_found", unknown.message)}
    assert (stack.controller.deleted, stack.controller.cancelled, stack.controller.watched_after) == ([], [], [])


async def _refused(stack: Stack, task_id: str, owner: str) -> list[ServiceError]:
    """What every call about a task says to the owner."""
    stub = client(stack)
    return [
        await error_of(stub.GetTask(pb.GetTaskRequest(task_id=task_id, only_owner=owner), timeout=5)),
        await error_of(stub.CancelTask(pb.CancelTaskRequest(task_id=task_id, only_owner=owner), timeout=5)),
        await error_of(stub.DeleteTask(pb.DeleteTaskRequest(task_id=task_id, only_owner=owner), timeout=5)),
        await error_of(stub.WatchTask(pb.WatchTaskRequest(task_id=task_id, only_owner=owner), timeout=5).read()),
        await error_of(stub.ReadResult(pb.ReadResultRequest(task_id=task_id, only_owner=owner, offset=99), timeout=5).read()),
    ]


async def test_calls_are_answered_when_the_task_is_the_owners(stack: Stack) -> None:
    stub, owner = client(stack), "session:1"
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, owner=owner, result=_done()))
    await obstore.put_async(stack.objects, VIDEO_KEY, b"video")
    for change in (a_change(a_view(a_task(TaskState.DONE, result=_done()))), None):
        stack.controller.changes.put_nowait(change)

    assert (await stub.GetTask(pb.GetTaskRequest(task_id=TASK_ID, only_owner=owner), timeout=5)).task.task_id == TASK_ID
    assert [answer async for answer in stub.WatchTask(pb.WatchTaskRequest(task_id=TASK_ID, only_owner=owner), timeout=5)]
    assert [answer async for answer in stub.ReadResult(pb.ReadResultRequest(task_id=TASK_ID, only_owner=owner), timeout=5)]
    await stub.CancelTask(pb.CancelTaskRequest(task_id=TASK_ID, only_owner=owner), timeout=5)
    await stub.DeleteTask(pb.DeleteTaskRequest(task_id=TASK_ID, only_owner=owner), timeout=5)
    assert (stack.controller.cancelled, stack.controller.deleted) == ([TASK_ID], [TASK_ID])


async def test_task_is_forgotten_when_it_is_deleted(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())

    await client(stack).DeleteTask(pb.DeleteTaskRequest(task_id=TASK_ID), timeout=5)

    assert stack.controller.deleted == [TASK_ID]


async def test_task_afterwards_is_the_answer_when_it_is_cancelled(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.CANCELLED))

    answer = await client(stack).CancelTask(pb.CancelTaskRequest(task_id=TASK_ID), timeout=5)

    assert answer.task.state == task_pb2.TASK_STATE_CANCELLED


async def test_watch_tells_every_change_and_its_events_until_the_engine_ends_it(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())
    started = Event(event_type="attempt_started", created_at=AT, task_id=TASK_ID, model=Model("anisora"), lane_id=LaneId("a"), sequence=6)
    for change in (a_change(a_view(a_task(), queue_position=1)), a_change(a_view(a_task(TaskState.DONE, result=_done())), started), None):
        stack.controller.changes.put_nowait(change)

    request = pb.WatchTaskRequest(task_id=TASK_ID, after_sequence=5)
    seen = [answer async for answer in client(stack).WatchTask(request, timeout=5)]

    assert [answer.task.state for answer in seen] == [task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_DONE]
    assert [(event.event_type, event.sequence, event.task_id, event.model) for event in seen[1].events] == [
        ("attempt_started", 6, TASK_ID, "anisora")
    ]
    assert (stack.controller.watched_after, seen[1].last_sequence) == ([5], 6)


async def test_watch_is_refused_when_no_event_can_have_the_sequence(stack: Stack) -> None:
    error = await error_of(client(stack).WatchTask(pb.WatchTaskRequest(task_id=TASK_ID, after_sequence=-1), timeout=5).read())

    assert [violation.field for violation in error.violations] == ["after_sequence"]


@pytest.mark.parametrize("is_busy", [False, True])
async def test_watch_is_recycled_when_it_is_old(stack: Stack, is_busy: bool) -> None:
    """Changes without end must not keep it alive either."""
    stack.controller.tasks[TASK_ID] = a_view(a_task())

    async def feed() -> None:
        while is_busy:
            stack.controller.changes.put_nowait(a_change(a_view(a_task())))
            await asyncio.sleep(0)

    feeding = asyncio.create_task(feed())
    doors = Doors()
    doors.open()
    service = clients.AdmissionService(controller=stack.controller, files=Files(MemoryStore()), doors=doors, stream_life_s=0.05)

    with pytest.raises(ServiceError) as caught:
        async for _ in service.WatchTask(pb.WatchTaskRequest(task_id=TASK_ID), None):
            pass

    feeding.cancel()
    assert (caught.value.code, caught.value.retry_after_s) == ("stream_recycled", 0.0)
    assert stack.controller.left.is_set()


async def test_watch_is_closed_when_the_reader_hangs_up(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())
    stack.controller.changes.put_nowait(a_change(a_view(a_task())))
    call = client(stack).WatchTask(pb.WatchTaskRequest(task_id=TASK_ID), timeout=30)
    await call.read()

    call.cancel()

    await asyncio.wait_for(stack.controller.left.wait(), 5)


async def test_watch_ends_with_unavailable_when_admission_stops(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())
    call = client(stack).WatchTask(pb.WatchTaskRequest(task_id=TASK_ID), timeout=30)
    reading = asyncio.ensure_future(error_of(call.read()))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    stack.doors.close()

    assert (await reading).code == "service_unavailable"


async def test_page_is_asked_for_with_its_defaults_when_nothing_is_said(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task())

    answer = await client(stack).ListTasks(pb.ListTasksRequest(), timeout=5)

    [query] = stack.controller.queries
    assert (query.page, query.page_size, query.sort) == (1, 20, TaskSort.CREATED_AT)
    assert (query.model, query.states, query.owner) == (None, frozenset(), None)
    assert (len(answer.tasks), answer.total) == (1, 41)


async def test_page_is_narrowed_when_the_request_says_so(stack: Stack) -> None:
    only = {"model": "phr00t", "states": [task_pb2.TASK_STATE_DONE], "only_owner": "session:1"}
    request = pb.ListTasksRequest(page=3, page_size=100, sort=pb.TASK_SORT_WIDTH, **only)  # type: ignore[arg-type]

    await client(stack).ListTasks(request, timeout=5)

    [query] = stack.controller.queries
    assert (query.page, query.page_size, query.sort) == (3, 100, TaskSort.WIDTH)
    assert (query.model, query.states, query.owner) == ("phr00t", frozenset({TaskState.DONE}), "session:1")


async def test_page_is_refused_when_its_bounds_make_no_sense(stack: Stack) -> None:
    unknown = {"sort": 99, "states": [0], "model": "a\0", "only_owner": "x" * 129}
    request = pb.ListTasksRequest(page=-1, page_size=101, **unknown)  # type: ignore[arg-type]

    error = await error_of(client(stack).ListTasks(request, timeout=5))

    assert [violation.field for violation in error.violations] == ["page", "page_size", "sort", "model", "only_owner", "states"]


async def test_models_are_those_of_the_rule_set(stack: Stack) -> None:
    answer = await client(stack).ListModels(pb.ListModelsRequest(), timeout=5)

    assert [model.id for model in answer.models] == list(MODELS)
    assert answer.models[0].fixed_parameters["steps"] == 8
    assert "properties" in answer.models[0].parameters_schema


async def test_models_tell_what_fits(stack: Stack) -> None:
    answer = await client(stack).ListModels(pb.ListModelsRequest(), timeout=5)

    limits = answer.models[0].limits
    [size] = limits.sizes
    assert list(limits.gpus) == ["NVIDIA A10G"]
    assert (size.width, size.height, size.max_num_frames, size.placement) == (480, 832, 81, "streamed")
    assert (size.predicted_peak_bytes, size.predicted_duration.ToMilliseconds()) == (20 * 1024**3, 120_500)


async def test_image_is_stored_by_content_when_it_is_uploaded(stack: Stack) -> None:
    content = png((32, 16))

    answers = [await client(stack).UploadInput(chunks(content, 100), timeout=5) for _ in range(2)]

    assert [answer.image.key for answer in answers] == [input_key(content)] * 2
    assert (answers[0].width, answers[0].height, answers[0].media_type) == (32, 16, "image/png")
    assert stack.stored() == [input_key(content)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"plainly no image", "not PNG, JPEG or WebP"),
        (png()[:-20], "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + bytes(12 * 1024 * 1024), "larger than 12 MiB"),
    ],
    ids=["empty", "text", "cut short", "too large"],
)
async def test_nothing_is_stored_when_an_upload_is_no_acceptable_image(stack: Stack, content: bytes, said: str) -> None:
    error = await error_of(client(stack).UploadInput(chunks(content), timeout=10))

    assert error.code == "validation_error"
    assert said in error.violations[0].message
    assert stack.stored() == []


async def test_upload_is_refused_when_a_chunk_is_too_large(stack: Stack) -> None:
    error = await error_of(client(stack).UploadInput(chunks(bytes(2 * MAX_UPLOAD_CHUNK_BYTES), MAX_UPLOAD_CHUNK_BYTES + 1), timeout=5))

    assert "at most 1048576 bytes" in error.violations[0].message


@pytest.mark.parametrize("offset", [0, 1, 256 * 1024, 599_999, 600_000])
async def test_rest_of_the_file_is_read_when_a_result_is_read_from_an_offset(stack: Stack, offset: int) -> None:
    content = bytes(range(250)) * 2400  # 600,000 bytes
    await obstore.put_async(stack.objects, VIDEO_KEY, content)
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))

    answers = [answer async for answer in client(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID, offset=offset), timeout=10)]

    assert b"".join(answer.chunk for answer in answers) == content[offset:]
    assert max(len(answer.chunk) for answer in answers) <= 256 * 1024
    assert (answers[0].total_bytes, answers[0].media_type) == (600_000, "video/webm")
    assert not any(answer.total_bytes or answer.media_type for answer in answers[1:])


async def test_preview_is_read_when_it_is_asked_for(stack: Stack) -> None:
    await obstore.put_async(stack.objects, PREVIEW_KEY, b"jpeg")
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))
    request = pb.ReadResultRequest(task_id=TASK_ID, file=pb.RESULT_FILE_PREVIEW)

    answers = [answer async for answer in client(stack).ReadResult(request, timeout=5)]

    assert [(answer.chunk, answer.media_type) for answer in answers] == [(b"jpeg", "image/jpeg")]


@pytest.mark.parametrize("offset", [-1, 5])
async def test_result_is_refused_when_the_offset_is_outside_the_file(stack: Stack, offset: int) -> None:
    await obstore.put_async(stack.objects, VIDEO_KEY, b"four")
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))

    error = await error_of(client(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID, offset=offset), timeout=5).read())

    assert [violation.field for violation in error.violations] == ["offset"]


@pytest.mark.parametrize("state", [TaskState.QUEUED, TaskState.LEASED, TaskState.FAILED, TaskState.CANCELLED])
async def test_result_is_refused_when_the_task_is_not_done(stack: Stack, state: TaskState) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(state))

    error = await error_of(client(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID), timeout=5).read())

    assert error.code == "task_not_done"


async def test_result_is_not_found_when_its_file_is_gone(stack: Stack) -> None:
    stack.controller.tasks[TASK_ID] = a_view(a_task(TaskState.DONE, result=_done()))

    error = await error_of(client(stack).ReadResult(pb.ReadResultRequest(task_id=TASK_ID), timeout=5).read())

    assert error.code == "task_not_found"


async def test_calls_say_unavailable_when_the_object_store_fails(stack: Stack) -> None:
    # A file where the folder should be: every write and read below it fails, as on a broken disk.
    stack.folder.rmdir()
    stack.folder.write_bytes(b"")

    error = await error_of(client(stack).UploadInput(chunks(png()), timeout=10))

    assert (error.code, error.retry_after_s) == ("service_unavailable", 5.0)


async def test_place_is_kept_until_the_decoder_ends_when_the_caller_hangs_up() -> None:
    # The place was free as soon as the caller left, while its thread decoded on: any number of them could run at once.
    begun, ending = threading.Semaphore(0), threading.Event()
    running: list[bytes] = []

    def decode(content: bytes) -> CheckedImage:
        running.append(content)
        begun.release()
        ending.wait(5)
        raise InvalidImageError

    async def upload(content: bytes) -> object:
        async def requests() -> AsyncIterator[pb.UploadInputRequest]:
            yield pb.UploadInputRequest(chunk=content)

        return await service.UploadInput(requests(), None)

    doors = Doors()
    doors.open()
    service = clients.AdmissionService(controller=ControllerDouble(), files=Files(MemoryStore()), doors=doors, check_image=decode)
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
