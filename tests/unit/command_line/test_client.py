"""The client of admission: refusals, streams that break, chunks."""

from __future__ import annotations

import pytest
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2

from command_line.client import admission_client, last_state
from runtime.errors import ErrorCode, ServiceError
from tests.unit.command_line.conftest import Served
from tests.unit.command_line.doubles import TASK_ID, VIDEO, made_task


async def test_every_state_is_told_when_a_task_is_watched(admission: Served) -> None:
    admission.script.watched = [made_task(progress=0), made_task(progress=40), made_task(task_pb2.TASK_STATE_DONE)]
    seen: list[int] = []
    async with admission_client(admission.address) as client:
        task = await last_state(client, TASK_ID, lambda one: seen.append(one.progress))
    assert (seen, task.state) == ([0, 40, 100], task_pb2.TASK_STATE_DONE)


async def test_watching_goes_on_when_the_stream_breaks(admission: Served) -> None:
    admission.script.watched = [made_task(progress=10), None, made_task(task_pb2.TASK_STATE_DONE)]
    async with admission_client(admission.address) as client:
        task = await last_state(client, TASK_ID, lambda _task: None)
    assert task.state == task_pb2.TASK_STATE_DONE


async def test_break_is_told_when_the_stream_ends_before_the_task(admission: Served) -> None:
    async with admission_client(admission.address, patience_s=0) as client:
        with pytest.raises(ServiceError, match="too early"):
            await last_state(client, TASK_ID, lambda _task: None)


async def test_break_is_told_when_it_outlasts_the_patience(admission: Served) -> None:
    admission.script.watched = [None]
    async with admission_client(admission.address, patience_s=0) as client:
        with pytest.raises(ServiceError) as caught:
            await last_state(client, TASK_ID, lambda _task: None)
    assert caught.value.code == ErrorCode.SERVICE_UNAVAILABLE


RECYCLED = ServiceError(code=ErrorCode.STREAM_RECYCLED, message="Old.", retry_after_s=0.0)


class HeardBreaks:
    """Keeps what a listener is told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def broken(self, error: ServiceError) -> None:
        self.heard.append(error.code)

    def resumed(self, after_sequence: int) -> None:
        self.heard.append(after_sequence)

    def repeated(self, error: ServiceError) -> None:
        self.heard.append(error.message)


def _event(sequence: int) -> task_pb2.TaskEvent:
    return task_pb2.TaskEvent(event_type="attempt_started", sequence=sequence)


def _with_events(task: task_pb2.Task, *sequences: int) -> task_pb2.Task:
    task.events.extend(_event(sequence) for sequence in sequences)
    return task


def _page(*sequences: int, last: int) -> operator_service_pb2.WatchEventsResponse:
    return operator_service_pb2.WatchEventsResponse(events=[_event(sequence) for sequence in sequences], last_sequence=last)


async def test_watching_goes_on_behind_the_last_event_when_the_stream_breaks(admission: Served) -> None:
    first, last = _with_events(made_task(progress=10), 4, 7), _with_events(made_task(task_pb2.TASK_STATE_DONE), 9)
    admission.script.watched = [first, None, last]
    listener = HeardBreaks()
    seen: list[int] = []
    async with admission_client(admission.address, listener=listener) as client:
        await last_state(client, TASK_ID, lambda task: seen.extend(event.sequence for event in task.events))
    assert (seen, admission.script.watched_after) == ([4, 7, 9], [0, 7])
    assert listener.heard == [ErrorCode.SERVICE_UNAVAILABLE, 7]


async def test_nobody_is_told_when_a_stream_is_only_recycled(admission: Served) -> None:
    admission.script.watched = [_with_events(made_task(), 4), RECYCLED, made_task(task_pb2.TASK_STATE_DONE)]
    listener = HeardBreaks()
    async with admission_client(admission.address, patience_s=0, listener=listener) as client:
        task = await last_state(client, TASK_ID, lambda _task: None)
    assert (task.state, admission.script.watched_after, listener.heard) == (task_pb2.TASK_STATE_DONE, [0, 4], [])


async def test_events_come_without_a_gap_when_the_stream_breaks(admission: Served) -> None:
    admission.script.pages = [_page(last=3), _page(4, 5, last=5), None, _page(last=8), RECYCLED, _page(9, last=9)]
    request = operator_service_pb2.WatchEventsRequest(only_new=True, event_types=["x"])
    async with admission_client(admission.address) as client:
        seen = [event.sequence async for event in client.events(request)]
    assert (seen, admission.script.watched_after) == ([4, 5, 9], [0, 5, 8])
    assert [one.only_new for one in admission.script.event_requests] == [True, False, False]
    assert all(list(one.event_types) == ["x"] for one in admission.script.event_requests)


async def test_request_is_sent_again_under_its_key_when_admission_stops(admission: Served) -> None:
    admission.script.breaks_submission = True
    listener = HeardBreaks()
    async with admission_client(admission.address, listener=listener) as client:
        await client.submit(generation_pb2.GenerationRequest(model="anisora"))
    first, second = admission.script.submissions
    assert first.request_id
    assert (first.request_id, first.request, first.abandon) == (second.request_id, second.request, True)
    assert (first.HasField("waited"), second.HasField("waited")) == (False, True)
    assert listener.heard == ["Admission is stopping."]


async def test_video_is_whole_when_the_stream_breaks_in_the_middle(admission: Served) -> None:
    admission.script.breaks_at = 512 * 1024
    parts: list[bytes] = []
    async with admission_client(admission.address) as client:
        await client.read_video(TASK_ID, parts.append)
    assert b"".join(parts) == VIDEO
    assert admission.script.read_offsets == [0, 512 * 1024]


async def test_image_arrives_whole_when_it_takes_several_chunks(admission: Served) -> None:
    content = VIDEO + b"tail"
    async with admission_client(admission.address) as client:
        await client.upload(content)
    assert admission.script.uploads == [content]


async def test_refusal_keeps_its_code_when_admission_refuses(admission: Served) -> None:
    admission.script.refusal = ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="No such task.")
    async with admission_client(admission.address) as client:
        with pytest.raises(ServiceError) as caught:
            await client.task(TASK_ID)
    assert caught.value.code == ErrorCode.TASK_NOT_FOUND
