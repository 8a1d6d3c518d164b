"""SubmitTask over a real channel, with a double behind it."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import obstore
import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.generation.v1 import generation_pb2

from admission.core.commands import OverloadCause, Refusal, RefusalCode, ReplyOverloaded
from admission.core.tasks import Model
from admission.engine_types import OverloadedError, RefusedError, RequestReusedError
from admission.store.port import StoreUnavailableError
from runtime.objects import input_key
from tests.unit.service.calls import a_submission, chunks, client, error_of, png
from tests.unit.service.conftest import Stack
from tests.unit.service.double import TASK_ID


async def test_checked_request_reaches_the_engine_when_it_is_submitted(stack: Stack) -> None:
    answer = await client(stack).SubmitTask(a_submission(width=512, height=512), timeout=5)

    [submission] = stack.controller.submitted
    request = submission.request
    assert (request.width, request.num_frames, request.steps, submission.owner) == (512, 81, 8, "key")
    assert (submission.request_id, submission.waited_s, submission.abandon, answer.is_duplicate) == ("", 0.0, False, False)
    assert answer.task.task_id == TASK_ID
    assert answer.task.state == task_pb2.TASK_STATE_QUEUED
    assert (answer.task.request.prompt, answer.task.request.seed) == ("a lake", 7)


async def test_every_wrong_field_is_named_when_a_request_breaks_the_rules(stack: Stack) -> None:
    error = await error_of(client(stack).SubmitTask(a_submission(prompt=" ", steps=9, width=8), timeout=5))

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

    error = await error_of(client(stack).SubmitTask(a_submission(mode="arbitrary_frame", arbitrary_frames=frames), timeout=5))

    assert error.code == "validation_error"
    assert [violation.field for violation in error.violations] == ["arbitrary_frames[1].image", "arbitrary_frames[2].image"]
    assert not stack.controller.submitted


async def test_request_with_an_image_is_accepted_when_it_was_uploaded(stack: Stack) -> None:
    uploaded = await client(stack).UploadInput(chunks(png()), timeout=5)

    await client(stack).SubmitTask(a_submission(mode="i2v", reference_image=uploaded.image), timeout=5)

    [submission] = stack.controller.submitted
    assert [image.key for image in submission.request.images()] == [uploaded.image.key]


@pytest.mark.parametrize("cause", list(OverloadCause))
async def test_bounds_and_retry_are_told_when_the_queue_is_overloaded(stack: Stack, cause: OverloadCause) -> None:
    reply = ReplyOverloaded(
        task_id=TASK_ID, model=Model("anisora"), cause=cause, depth=25, max_depth=25, waited_s=30.0, max_wait_s=30.0, retry_after_s=12.25
    )
    stack.controller.answer = OverloadedError(reply)

    error = await error_of(client(stack).SubmitTask(a_submission(), timeout=5))

    assert error.code == "queue_overloaded"
    assert error.metadata == {"cause": cause.value, "depth": "25", "max_depth": "25", "waited_s": "30.000", "max_wait_s": "30.000"}
    assert error.retry_after_s == 13.0


async def test_what_fits_is_told_when_the_memory_does_not_suffice(stack: Stack) -> None:
    refusal = Refusal(
        code=RefusalCode.VRAM_EXCEEDED,
        placement="streamed_chunked",
        predicted_bytes=26 * 1024**3,
        limit_bytes=21 * 1024**3,
        max_num_frames=49,
        max_size=(832, 480),
    )
    stack.controller.answer = RefusedError(refusal)

    call = client(stack).SubmitTask(a_submission(), timeout=5)
    error = await error_of(call)

    assert (error.code, await call.code()) == ("vram_exceeded", grpc.StatusCode.INVALID_ARGUMENT)
    assert error.metadata == {
        "predicted_bytes": str(26 * 1024**3),
        "limit_bytes": str(21 * 1024**3),
        "placement": "streamed_chunked",
        "max_num_frames": "49",
        "max_width": "832",
        "max_height": "480",
    }
    assert error.message == (
        "This clip needs 26.0 GiB of GPU memory, and 21.0 GiB are there. "
        "Ask for at most 49 frames at this size, or at most 832x480 at this number of frames."
    )
    assert error.retry_after_s is None


async def test_what_would_end_in_time_is_told_when_the_deadline_cannot_be_met(stack: Stack) -> None:
    refusal = Refusal(code=RefusalCode.DEADLINE_UNREACHABLE, predicted_s=7200.0, limit_s=3600.0, max_num_frames=0, max_size=None)
    stack.controller.answer = RefusedError(refusal)

    error = await error_of(client(stack).SubmitTask(a_submission(), timeout=5))

    assert error.code == "deadline_unreachable"
    assert error.metadata == {"predicted_s": "7200.0", "limit_s": "3600.0", "max_num_frames": "0"}
    assert error.message == "This clip would render for 120 minutes, and 60 are the most. Ask for a smaller size and fewer frames."


async def test_submit_is_unavailable_when_the_store_is(stack: Stack) -> None:
    stack.controller.answer = StoreUnavailableError("disk full")

    error = await error_of(client(stack).SubmitTask(a_submission(), timeout=5))

    assert (error.code, error.retry_after_s) == ("service_unavailable", 5.0)


async def test_place_is_freed_when_the_caller_hangs_up(stack: Stack) -> None:
    stack.controller.answer = None
    call = client(stack).SubmitTask(a_submission(), timeout=30)
    code = asyncio.ensure_future(call.code())
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    call.cancel()

    await asyncio.wait_for(stack.controller.left.wait(), 5)
    assert await code is grpc.StatusCode.CANCELLED


async def test_place_is_freed_when_the_callers_deadline_passes(stack: Stack) -> None:
    stack.controller.answer = None

    error = await error_of(client(stack).SubmitTask(a_submission(), timeout=0.3))

    await asyncio.wait_for(stack.controller.left.wait(), 5)
    assert (error.code, error.metadata) == ("service_unavailable", {"grpc_status": "deadline_exceeded"})


async def test_wait_ends_with_unavailable_when_admission_stops(stack: Stack) -> None:
    stack.controller.answer = None
    call = asyncio.ensure_future(error_of(client(stack).SubmitTask(a_submission(), timeout=30)))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)

    stack.doors.close()

    assert (await call).code == "service_unavailable"
    assert stack.controller.left.is_set()
    assert (await error_of(client(stack).SubmitTask(a_submission(), timeout=5))).code == "service_unavailable"


# PostgreSQL takes no NUL: one would have ended the admission that tried to store it.
@pytest.mark.parametrize("owner", ["x" * 129, "a\0b"])
async def test_owner_is_refused_when_it_is_too_long_or_cannot_be_stored(stack: Stack, owner: str) -> None:
    error = await error_of(client(stack).SubmitTask(pb.SubmitTaskRequest(owner=owner), timeout=5))

    assert [violation.field for violation in error.violations] == ["owner"]


async def test_key_and_wait_reach_the_engine_when_a_request_is_submitted_again(stack: Stack) -> None:
    stack.controller.is_duplicate = True
    message = a_submission()
    message.request_id, message.abandon = " a key of 1 to 128 ~", True
    message.waited.FromMilliseconds(12_500)

    answer = await client(stack).SubmitTask(message, timeout=5)

    [submission] = stack.controller.submitted
    assert (submission.request_id, submission.waited_s, submission.abandon) == (" a key of 1 to 128 ~", 12.5, True)
    assert answer.is_duplicate


@pytest.mark.parametrize("request_id", ["x" * 129, "tab\t", "\N{SNOWMAN}", "nul\0", "end\n"])
async def test_request_id_is_refused_when_it_is_not_short_printable_ascii(stack: Stack, request_id: str) -> None:
    message = a_submission()
    message.request_id = request_id

    error = await error_of(client(stack).SubmitTask(message, timeout=5))

    assert [violation.field for violation in error.violations] == ["request_id"]
    assert not stack.controller.submitted


@pytest.mark.parametrize("waited_s", [-1, 31, 2**62])
async def test_waited_is_refused_when_no_admission_can_have_held_it_so_long(stack: Stack, waited_s: int) -> None:
    message = a_submission()
    message.waited.seconds = waited_s

    error = await error_of(client(stack).SubmitTask(message, timeout=5))

    assert [violation.field for violation in error.violations] == ["waited"]


async def test_abandon_is_refused_when_there_is_no_request_id(stack: Stack) -> None:
    message = a_submission()
    message.abandon = True

    error = await error_of(client(stack).SubmitTask(message, timeout=5))

    assert [violation.field for violation in error.violations] == ["abandon"]


async def test_request_id_is_named_when_it_was_used_for_another_request(stack: Stack) -> None:
    stack.controller.answer = RequestReusedError()

    error = await error_of(client(stack).SubmitTask(a_submission(), timeout=5))

    assert error.code == "validation_error"
    assert [violation.field for violation in error.violations] == ["request_id"]
    assert "send a new one" in error.violations[0].message


async def test_state_of_admission_is_told_when_it_lets_nobody_in(stack: Stack) -> None:
    """Whoever holds a request for somebody tries again when admission is starting or stopping, and not when the disk is full."""
    stack.controller.answer = StoreUnavailableError()
    full = await error_of(client(stack).SubmitTask(a_submission(), timeout=5))
    stack.doors.close()
    stopping = await error_of(client(stack).SubmitTask(a_submission(), timeout=5))

    assert (full.metadata, stopping.metadata) == ({}, {"admission": "stopping"})
