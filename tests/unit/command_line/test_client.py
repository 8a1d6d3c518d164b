"""The client of admission: refusals, streams that break, chunks."""

from __future__ import annotations

import pytest
from warmlane.admission.v1 import task_pb2

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
