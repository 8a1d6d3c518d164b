"""A full disk under admission's state, or under the object store: nothing accepted is lost, and it goes on by itself when there is room."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from pathlib import Path

import grpc.aio
import httpx
import pytest
from PIL import Image
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2

from runtime.rpc_errors import service_error
from tests.harness.callers import ACCEPTED, Answer, GrpcCaller, HttpCaller, body
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack
from tests.harness.small_disk import SmallDisk

_LANE = "lane-anisora"
_PATIENCE_S = 30.0


def _is_done(task: task_pb2.Task) -> bool:
    assert task.state not in (task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED), task
    return task.state == task_pb2.TASK_STATE_DONE


def _is_in_work(task: task_pb2.Task) -> bool:
    return task.stage == task_pb2.STAGE_INFERENCE


async def _until_accepted(caller: GrpcCaller) -> Answer:
    ends_s = time.monotonic() + _PATIENCE_S
    while (answer := await caller.ask()).code != ACCEPTED:
        assert answer.code == "service_unavailable", answer
        assert time.monotonic() < ends_s, "it did not go on by itself"
        await asyncio.sleep(0.1)
    return answer


async def test_admission_refuses_and_goes_on_without_a_restart_when_its_disk_was_full(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk") as disk:
        stack = LightStack(tmp_path / "stack", processes=(ADMISSION, _LANE), database=disk.folder / "admission.db")
        try:
            await asyncio.to_thread(stack.__enter__)
            async with GrpcCaller(stack) as caller:
                await _full_disk(stack, disk, caller)
        finally:
            await asyncio.to_thread(stack.stop)


async def _full_disk(stack: LightStack, disk: SmallDisk, caller: GrpcCaller) -> None:
    admission = stack.pid(ADMISSION)
    in_work = (await caller.ask("waits")).task_id
    await caller.until(in_work, _is_in_work)
    accepted = [(await caller.ask(f"waiting {number}")).task_id for number in range(3)]
    disk.fill()
    # What is left of the last page may take one more; from then on there is no room for any.
    answers = [await caller.ask(f"too much {number} {'x' * 1500}") for number in range(12)]
    accepted += [answer.task_id for answer in answers if answer.code == ACCEPTED]
    refused = [answer for answer in answers if answer.code != ACCEPTED]
    assert len(refused) >= 10
    assert {(answer.code, answer.status) for answer in refused} == {("service_unavailable", "UNAVAILABLE")}
    assert all(answer.retry_after_s is not None for answer in refused)
    assert (await caller.task(accepted[0])).state == task_pb2.TASK_STATE_QUEUED, "what is stored can be read"
    # It ends while its end cannot be stored: the lane keeps the outcome, admission the decision.
    (stack.folder / "models" / "go").touch()
    with pytest.raises(grpc.aio.AioRpcError) as cancelling:
        await caller.admission.CancelTask(pb.CancelTaskRequest(task_id=accepted[-1]), timeout=2)
    assert cancelling.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, "a cancel is not promised before it is stored"
    disk.free()
    later = (await _until_accepted(caller)).task_id
    for task_id in (in_work, *accepted[:-1], later):
        assert (await caller.until(task_id, _is_done)).attempt == 1
    assert (await caller.task(accepted[-1])).state == task_pb2.TASK_STATE_CANCELLED, "the cancel was not forgotten"
    tasks = (await caller.admission.ListTasks(pb.ListTasksRequest(page_size=100), timeout=10)).tasks
    assert {task.task_id for task in tasks} == {in_work, later, *accepted}, "what was refused never was"
    assert stack.pid(ADMISSION) == admission
    assert stack.unexpected_exits() == ()


@pytest.mark.long
async def test_admission_serves_what_it_had_accepted_when_it_was_killed_on_a_full_disk(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk") as disk:
        stack = LightStack(tmp_path / "stack", processes=(ADMISSION, _LANE), database=disk.folder / "admission.db")
        try:
            await asyncio.to_thread(stack.__enter__)
            async with GrpcCaller(stack) as caller:
                in_work = (await caller.ask("waits")).task_id
                await caller.until(in_work, _is_in_work)
                waiting = (await caller.ask()).task_id
                disk.fill()
                stack.kill(ADMISSION)
                # It cannot claim its epoch; its supervisor tries again.
                await asyncio.sleep(2.0)
                with pytest.raises(grpc.aio.AioRpcError):
                    await caller.snapshot()
                disk.free()
                (stack.folder / "models" / "go").touch()
                await caller.until_serving()
                for task_id in (in_work, waiting):
                    assert (await caller.until(task_id, _is_done)).attempt == 1
        finally:
            await asyncio.to_thread(stack.stop)


@pytest.mark.long
async def test_uploads_are_refused_and_a_render_is_stored_later_when_the_object_store_was_full(tmp_path: Path) -> None:
    with SmallDisk(tmp_path / "disk") as disk:
        stack = LightStack(tmp_path / "stack", processes=(ADMISSION, _LANE, HTTP_BRIDGE), objects=disk.folder)
        try:
            await asyncio.to_thread(stack.__enter__)
            async with GrpcCaller(stack) as caller, HttpCaller(stack) as http:
                await _full_object_store(stack, disk, caller, http)
        finally:
            await asyncio.to_thread(stack.stop)


async def _full_object_store(stack: LightStack, disk: SmallDisk, caller: GrpcCaller, http: HttpCaller) -> None:
    in_work = (await caller.ask("waits")).task_id
    await caller.until(in_work, _is_in_work)
    disk.fill()
    with pytest.raises(grpc.aio.AioRpcError) as uploading:
        await caller.admission.UploadInput(iter([pb.UploadInputRequest(chunk=_picture())]), timeout=20)
    assert service_error(uploading.value).code == "service_unavailable"
    with_image = body("a boat") | {"mode": "i2v", "reference_image": "data:image/png;base64," + base64.b64encode(_picture()).decode()}
    reply = await http.client.post("/generate", json=with_image)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (503, "service_unavailable")
    # A request without images needs no object store yet.
    later = (await caller.ask("a tree")).task_id
    (stack.folder / "models" / "go").touch()
    await caller.until(in_work, lambda task: task.stage == task_pb2.STAGE_ENCODING)
    await asyncio.sleep(1.0)
    assert (await caller.task(in_work)).state == task_pb2.TASK_STATE_LEASED, "the lane tries again"
    disk.free()
    for task_id in (in_work, later):
        done = await caller.until(task_id, _is_done)
        assert done.attempt == 1
        assert [path.name for path in sorted((stack.objects / "results" / task_id / "1").iterdir())] == ["preview.jpg", "video.mp4"]
    assert (await _accepted_over_http(http, with_image)).status_code == 202
    assert stack.unexpected_exits() == ()


async def _accepted_over_http(http: HttpCaller, wanted: dict[str, object]) -> httpx.Response:
    return await http.client.post("/generate", json=wanted)


def _picture() -> bytes:
    content = io.BytesIO()
    # Noise, so that it does not fit into what is left of a page.
    Image.effect_noise((256, 256), 80).save(content, "PNG")
    return content.getvalue()
