"""Tasks of an earlier system, taken over through real services, engine and object store."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from warmlane.admission.v1 import admission_service_pb2 as clients_pb
from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1 import task_pb2

from admission.service import imports as service
from runtime.objects import IMPORT_PREFIX
from tests.harness.admission_services import Stack, admission_stack, error_of, until
from tests.harness.bridge import png
from tests.harness.imports import CREATED_AT, MP4, OLD_ID, UPDATED_AT, WEBM, failed_task, jpeg, old_task, parts

IMPORTED, ALREADY_THERE = pb.IMPORT_OUTCOME_IMPORTED, pb.IMPORT_OUTCOME_ALREADY_THERE


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with admission_stack(tmp_path) as stack:
        yield stack


async def imported(stack: Stack, *arguments: Any, **options: Any) -> pb.ImportOutcome.ValueType:
    """What becomes of the import of these parts."""
    return (await stack.operators.ImportTask(parts(*arguments, **options), timeout=20)).outcome


async def task(stack: Stack, task_id: str = OLD_ID) -> task_pb2.Task:
    return (await stack.clients.GetTask(clients_pb.GetTaskRequest(task_id=task_id), timeout=5)).task


async def file(stack: Stack, kind: clients_pb.ResultFile.ValueType, task_id: str = OLD_ID) -> bytes:
    request = clients_pb.ReadResultRequest(task_id=task_id, file=kind)
    return b"".join([answer.chunk async for answer in stack.clients.ReadResult(request, timeout=5)])


def stored(folder: Path) -> list[str]:
    """Every file of the object store, half-written ones too."""
    objects = folder / "objects"
    # Not by a glob: that raises when what it looks at is just being removed.
    return sorted((Path(place) / name).relative_to(objects).as_posix() for place, _, names in os.walk(objects) for name in names)


@pytest.mark.parametrize("piece", [1000, 1024 * 1024])
async def test_done_task_is_there_with_its_files_when_it_was_imported(stack: Stack, tmp_path: Path, piece: int) -> None:
    preview = jpeg()

    assert await imported(stack, old_task(), MP4, preview, piece=piece) == IMPORTED

    found = await task(stack)
    assert (found.state, found.progress, found.stage) == (task_pb2.TASK_STATE_DONE, 100, task_pb2.STAGE_COMPLETED)
    assert found.request == old_task().request
    assert (found.created_at.ToMicroseconds(), found.updated_at.ToMicroseconds()) == tuple(
        round(moment.timestamp() * 1e6) for moment in (CREATED_AT, UPDATED_AT)
    )
    assert (found.result.sha256, found.result.size_bytes, found.result.width) == (hashlib.sha256(MP4).hexdigest(), len(MP4), 512)
    assert [(event.event_type, event.value) for event in found.events] == [("imported", "done")]
    assert await file(stack, clients_pb.RESULT_FILE_VIDEO) == MP4
    assert await file(stack, clients_pb.RESULT_FILE_PREVIEW) == preview
    # Beside them nothing: the mark of the import is gone.
    assert stored(tmp_path) == sorted([found.result.video_key, found.result.preview_key])
    assert all(key.startswith(f"results/{OLD_ID}/1/") for key in stored(tmp_path))


async def test_files_are_told_by_their_content_when_they_come_byte_by_byte(stack: Stack) -> None:
    webm = old_task(media_type="video/webm")
    assert await imported(stack, webm, WEBM[:80], piece=1) == IMPORTED
    assert await file(stack, clients_pb.RESULT_FILE_VIDEO) == WEBM[:80]
    # Shorter than what is usually looked at.
    assert await imported(stack, old_task("short"), MP4[:20], piece=7) == IMPORTED
    assert (await task(stack, "short")).result.preview_key == ""


async def test_failed_and_cancelled_tasks_are_there_when_they_were_imported(stack: Stack, tmp_path: Path) -> None:
    cancelled = old_task("cancelled", state=task_pb2.TASK_STATE_CANCELLED, media_type=None)
    assert [await imported(stack, one) for one in (failed_task("failed"), cancelled)] == [IMPORTED, IMPORTED]

    failed, ended = await task(stack, "failed"), await task(stack, "cancelled")
    assert (failed.state, failed.failure.code, failed.failure.message) == (task_pb2.TASK_STATE_FAILED, "render_failed", "It broke.")
    assert (ended.state, ended.failure.code) == (task_pb2.TASK_STATE_CANCELLED, "cancelled")
    assert stored(tmp_path) == []


async def test_the_gallery_sorts_it_by_its_own_time_and_counts_it_to_the_key(stack: Stack) -> None:
    for number in range(3):
        older = old_task(f"old-{number}", created_at=None)
        older.created_at.FromSeconds(1_700_000_000 + number)
        assert await imported(stack, older, MP4) == IMPORTED
    page = await stack.clients.ListTasks(clients_pb.ListTasksRequest(only_owner="key"), timeout=5)
    assert ([one.task_id for one in page.tasks], page.total) == (["old-2", "old-1", "old-0"], 3)
    assert (await stack.clients.ListTasks(clients_pb.ListTasksRequest(only_owner="session:1"), timeout=5)).total == 0


async def test_first_import_stays_when_the_same_id_comes_again(stack: Stack, tmp_path: Path) -> None:
    assert await imported(stack, old_task(), MP4) == IMPORTED
    before = stored(tmp_path)

    assert await imported(stack, failed_task()) == ALREADY_THERE
    assert await imported(stack, old_task(), b"no video at all" * 10_000) == ALREADY_THERE

    assert (await task(stack)).state == task_pb2.TASK_STATE_DONE
    assert stored(tmp_path) == before


async def test_answer_comes_before_the_files_when_the_task_is_there(stack: Stack) -> None:
    await imported(stack, old_task(), MP4)

    async def endless() -> AsyncIterator[pb.ImportTaskRequest]:
        yield pb.ImportTaskRequest(task=old_task(result_size_bytes=9))
        await asyncio.Event().wait()

    assert (await stack.operators.ImportTask(endless(), timeout=5)).outcome == ALREADY_THERE


async def test_one_is_stored_when_two_imports_of_an_id_race(stack: Stack, tmp_path: Path) -> None:
    outcomes = await asyncio.gather(*(imported(stack, old_task(), MP4 + bytes([number]), jpeg(), piece=500) for number in range(4)))
    assert sorted(outcomes) == [IMPORTED] + [ALREADY_THERE] * 3
    assert len(stored(tmp_path)) == 2
    found = await task(stack)
    assert hashlib.sha256(await file(stack, clients_pb.RESULT_FILE_VIDEO)).hexdigest() == found.result.sha256


async def test_imported_task_is_deleted_with_its_files_and_can_come_again(stack: Stack, tmp_path: Path) -> None:
    for _ in range(3):
        assert await imported(stack, old_task(), MP4, jpeg()) == IMPORTED
        await stack.clients.DeleteTask(clients_pb.DeleteTaskRequest(task_id=OLD_ID), timeout=5)
    await until(lambda: gone(tmp_path))
    assert (await error_of(task(stack))).code == "task_not_found"


async def gone(folder: Path) -> bool:
    """The object store is empty."""
    return stored(folder) == []


REFUSED = {
    "nothing came": (lambda: parts(None), "task"),
    "files came first": (lambda: parts(None, MP4), "task"),
    "an empty part": (lambda: iter([*parts(old_task(), MP4), pb.ImportTaskRequest()]), "part"),
    "the task twice": (lambda: iter([*parts(old_task(), MP4), *parts(old_task())]), "task"),
    "no result": (lambda: parts(old_task(), b"", jpeg()), "result_size_bytes"),
    "less than was announced": (lambda: parts(old_task(result_size_bytes=len(MP4) + 1), MP4), "result_chunk"),
    "more than was announced": (lambda: parts(old_task(result_size_bytes=len(MP4) - 1), MP4), "result_chunk"),
    "less of a preview than was announced": (lambda: parts(old_task(preview_size_bytes=9999), MP4, jpeg()), "preview_chunk"),
    "a preview that was not announced": (
        lambda: iter([*parts(old_task(), MP4), *list(parts(old_task(), b"", jpeg()))[1:]]),
        "preview_chunk",
    ),
    "too large a result": (lambda: parts(old_task(result_size_bytes=4 * 1024**3 + 1), MP4), "result_size_bytes"),
    "too large a preview": (lambda: parts(old_task(preview_size_bytes=12 * 1024**2 + 1), MP4), "preview_size_bytes"),
    "no video": (lambda: parts(old_task(), b"<html>" * 100), "result_chunk"),
    "a very short file": (lambda: parts(old_task(), b"<html>"), "result_chunk"),
    "another kind of video": (lambda: parts(old_task(media_type="video/webm"), MP4), "result_chunk"),
    "a picture in the video's container": (lambda: parts(old_task(), MP4.replace(b"ftypisom", b"ftypavif")), "result_chunk"),
    "a large chunk": (lambda: parts(old_task(), MP4[:28] + bytes(1024 * 1024), piece=2**21), "result_chunk"),
    "a preview of another kind": (lambda: parts(old_task(), MP4, png()), "preview_chunk"),
    "a broken preview": (lambda: parts(old_task(), MP4, jpeg()[:200]), "preview_chunk"),
    "a result of a failed task": (lambda: parts(failed_task(), MP4), "result_size_bytes"),
    "a preview of a failed task": (lambda: parts(failed_task(), b"", jpeg()), "preview_size_bytes"),
    "files that a failed task kept to itself": (lambda: iter([*parts(failed_task()), *list(parts(old_task(), MP4))[1:]]), "result_chunk"),
    "no such field": (lambda: parts(old_task("../../etc"), MP4), "task_id"),
}


@pytest.mark.parametrize(("sent", "field"), REFUSED.values(), ids=REFUSED.keys())
async def test_nothing_is_left_when_an_import_is_refused(stack: Stack, tmp_path: Path, sent: Any, field: str) -> None:
    messages: Iterator[pb.ImportTaskRequest] = sent()

    error = await error_of(stack.operators.ImportTask(messages, timeout=10))

    assert (error.code, [violation.field for violation in error.violations]) == ("validation_error", [field])
    assert stored(tmp_path) == []
    assert (await error_of(task(stack))).code == "task_not_found"
    # And it is free for a better one.
    assert await imported(stack, old_task(), MP4) == IMPORTED


# Longer than what is kept in memory, so that a half-written file lies in the store by then.
LONG = MP4 + bytes(20 * 1024 * 1024)


async def begun(stack: Stack, folder: Path, sent: bytes) -> grpc.aio.StreamUnaryCall[pb.ImportTaskRequest, pb.ImportTaskResponse]:
    """An import that announced LONG, has sent this of it and goes on."""
    call = stack.operators.ImportTask(timeout=60)
    for part in parts(old_task(result_size_bytes=len(LONG)), sent, piece=1024 * 1024):
        await call.write(part)

    async def is_writing() -> bool:
        return any("#" in name for name in stored(folder))

    await until(is_writing)
    return call


@pytest.mark.parametrize("rounds", [5])
async def test_nothing_is_left_when_the_sender_goes_away(stack: Stack, tmp_path: Path, rounds: int) -> None:
    # To the server a stream that was cut off looks at first like one that has ended.
    for _ in range(rounds):
        call = await begun(stack, tmp_path, LONG[:-1])
        call.cancel()
        await until(lambda: gone(tmp_path))
        assert (await error_of(task(stack))).code == "task_not_found"
    assert await imported(stack, old_task(), MP4) == IMPORTED


async def test_nothing_is_left_when_the_sender_pauses_for_too_long(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_PAUSE_S", 0.2)
    call = stack.operators.ImportTask(timeout=60)
    await call.write(pb.ImportTaskRequest(task=old_task(result_size_bytes=9)))
    error = await error_of(call)
    assert (error.code, error.violations[0].field) == ("validation_error", "part")
    assert stored(tmp_path) == []


async def test_import_in_progress_stays_when_broken_ones_are_removed(stack: Stack, tmp_path: Path) -> None:
    call = await begun(stack, tmp_path, LONG)
    assert [name for name in stored(tmp_path) if name.startswith(IMPORT_PREFIX)] != []

    assert await stack.engine.imports.remove_broken() == 0

    await call.done_writing()
    assert (await call).outcome == IMPORTED
    assert await file(stack, clients_pb.RESULT_FILE_VIDEO) == LONG
    assert await stack.engine.imports.remove_broken() == 0
    assert len(stored(tmp_path)) == 1


async def test_broken_imports_go_and_whole_ones_stay_when_admission_starts_again(stack: Stack, tmp_path: Path) -> None:
    assert await imported(stack, old_task("whole"), MP4) == IMPORTED
    [whole] = stored(tmp_path)
    # A crash after the commit leaves the mark; one before it the files as well, one of them half-written.
    name = whole.split("/")[-2]
    left = ["imports/whole/" + name, *(f"results/broken/1/{'b' * 16}/{file}" for file in ("video.mp4", "preview.jpg#1"))]
    left += ["imports/broken/" + "b" * 16, "imports/only-begun/" + "c" * 16]
    # Not ours, and of a task that another attempt rendered: neither is touched.
    others = ["imports/readme.txt", "results/broken/1/video.mp4", "results/broken/2/video.mp4"]
    for key in (*left, *others):
        path = tmp_path / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    assert await stack.engine.imports.remove_broken() == 2

    assert stored(tmp_path) == sorted([whole, *others])


async def test_every_field_is_named_when_several_are_wrong(stack: Stack) -> None:
    bad = old_task("image-1", state=task_pb2.TASK_STATE_QUEUED, media_type="image/png", created_at=None, lane_mode=99)
    bad.request.model, bad.request.prompt = "pony", "x" * 20_001
    error = await error_of(imported(stack, bad))
    assert {violation.field for violation in error.violations} == {
        "task_id", "state", "media_type", "lane_mode", "request.model", "request.prompt", "created_at",
    }  # fmt: skip
