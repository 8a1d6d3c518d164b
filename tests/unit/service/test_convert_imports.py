"""What of an imported task's message is taken, and what is refused by its field."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.generation.v1 import generation_pb2

from admission.core.tasks import FallbackReason, LaneMode, TaskState
from admission.service import convert
from admission.service.convert_imports import MAX_MESSAGE_CHARACTERS, imported_task
from admission.store import rows
from runtime.rules.request import InvalidRequestError
from tests.harness import imports
from tests.harness.imports import CREATED_AT, failed_task, stamp

NOW = CREATED_AT + timedelta(days=400)


def old_task(*arguments: str, **changes: Any) -> pb.ImportedTask:
    """A done task that announces its result."""
    return imports.old_task(*arguments, **{"result_size_bytes": 1, **changes})


def fields(message: pb.ImportedTask) -> list[str]:
    """The fields that are refused; none when it is taken."""
    try:
        imported_task(message, NOW)
    except InvalidRequestError as error:
        return [violation.field for violation in error.violations]
    return []


def failure(**values: str) -> generation_pb2.Failure:
    return generation_pb2.Failure(**{"code": "render_failed", "message": "It broke.", **values})


def test_everything_is_kept_as_it_was_when_the_task_is_taken() -> None:
    message = old_task(lane_mode=task_pb2.LANE_MODE_DEGRADED_SHARED, fallback_reason=task_pb2.FALLBACK_REASON_QUOTA)
    # Far outside of what a request may ask for today.
    message.request.prompt, message.request.width, message.request.steps, message.request.cfg_scale = " \t" + "ü🌊" * 5000, 16, 50, 7.5

    task = imported_task(message, NOW)

    assert (task.state, task.owner, task.attempt) == (TaskState.DONE, "key", 1)
    assert (task.lane_mode, task.fallback_reason) == (LaneMode.DEGRADED_SHARED, FallbackReason.QUOTA)
    assert convert.request(task) == message.request
    assert rows.task_row(task, rows.utc)


def test_a_request_may_say_hardly_anything_when_it_is_old() -> None:
    message = old_task(request=generation_pb2.GenerationRequest(model="phr00t", mode="t2v"))
    assert imported_task(message, NOW).parameters == {"prompt": "", "model": "phr00t", "mode": "t2v"}


@pytest.mark.parametrize("task_id", ["", "x" * 65, "a/b", "a.b", "..", "image-1", "ä", "a\0", "a\n", " a"])
def test_id_is_refused_when_it_may_not_stand_in_a_path_or_is_the_upstreams(task_id: str) -> None:
    assert fields(old_task(task_id)) == ["task_id"]


@pytest.mark.parametrize("task_id", ["1", "-", "_", "A" * 64, "images", "0" * 32])
def test_id_is_taken_when_it_is_short_and_plain(task_id: str) -> None:
    assert fields(old_task(task_id)) == []


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (old_task(state=None), ["state", "media_type", "result_size_bytes"]),
        (old_task(state=task_pb2.TASK_STATE_LEASED, media_type=None, result_size_bytes=None), ["state"]),
        (old_task(state=99, result_size_bytes=None), ["state", "media_type"]),
        (old_task(result_size_bytes=0), ["result_size_bytes"]),
        (old_task(result_size_bytes=-1, preview_size_bytes=-1), ["result_size_bytes", "preview_size_bytes"]),
        (old_task(result_size_bytes=2**40, preview_size_bytes=2**40), ["result_size_bytes", "preview_size_bytes"]),
        (failed_task(preview_size_bytes=1), ["preview_size_bytes"]),
        (old_task(media_type="video/quicktime"), ["media_type"]),
        (old_task(failure=failure()), ["failure"]),
        (failed_task(media_type="video/mp4"), ["media_type"]),
        (failed_task(failure=None), ["failure"]),
        (failed_task(failure=failure(code="cancelled")), ["failure.code"]),
        (failed_task(failure=failure(code="", message=" ")), ["failure.code", "failure.message"]),
        (failed_task(failure=failure(message="x" * (MAX_MESSAGE_CHARACTERS + 1))), ["failure.message"]),
        (failed_task(failure=failure(message="red: \x1b[31m")), ["failure.message"]),
        (old_task(lane_mode=7), ["lane_mode"]),
        (old_task(fallback_reason=7), ["fallback_reason"]),
        (old_task(created_at=None), ["created_at"]),
        (old_task(created_at=Timestamp(seconds=2**62)), ["created_at"]),
        (old_task(updated_at=Timestamp(seconds=1, nanos=-5)), ["updated_at"]),
        (old_task(updated_at=stamp(NOW + timedelta(days=2))), ["updated_at"]),
    ],
)
def test_field_of_the_task_is_named_when_it_is_refused(message: pb.ImportedTask, wrong: list[str]) -> None:
    assert fields(message) == wrong


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"model": "flux"}, ["request.model"]),
        ({"mode": "arbitrary"}, ["request.mode"]),
        ({"model": "phr00t", "mode": "arbitrary_frame"}, ["request.mode"]),
        ({"prompt": "x" * 20_001}, ["request.prompt"]),
        ({"negative_prompt": "a\0b"}, ["request.negative_prompt"]),
        ({"lighting_variant": "x" * 65}, ["request.lighting_variant"]),
        ({"width": 0}, ["request.width"]),
        ({"num_frames": -1}, ["request.num_frames"]),
        ({"motion_score": float("nan")}, ["request.motion_score"]),
        ({"guidance_scale": float("-inf")}, ["request.guidance_scale"]),
        ({"reference_image": generation_pb2.InputImage(key="inputs/a")}, ["request.reference_image"]),
        ({"arbitrary_frames": [generation_pb2.ArbitraryFrame(frame_index=1)]}, ["request.arbitrary_frames"]),
    ],
)
def test_field_of_the_request_is_named_when_it_is_refused(changes: dict[str, Any], wrong: list[str]) -> None:
    request = generation_pb2.GenerationRequest(**{"model": "anisora", "mode": "t2v", **changes})
    assert fields(old_task(request=request)) == wrong


_WORDS = st.text(max_size=12) | st.sampled_from(["anisora", "phr00t", "t2v", "video/mp4", "render_failed"])
_INTS, _FLOATS = st.integers(-(2**31), 2**31 - 1), st.floats()
_REQUESTS = st.fixed_dictionaries(
    {"model": _WORDS, "mode": _WORDS},
    optional={
        **dict.fromkeys(("prompt", "negative_prompt", "output_format", "lighting_variant"), _WORDS),
        **dict.fromkeys(("width", "height", "seed", "num_frames", "fps", "steps"), _INTS),
        **dict.fromkeys(("cfg_scale", "guidance_scale", "motion_score", "first_strength"), _FLOATS),
    },
)
_STAMPS = st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**31), nanos=_INTS | st.just(0))


@settings(max_examples=150, deadline=None)
@given(
    request=_REQUESTS,
    values=st.fixed_dictionaries(
        {
            "task_id": st.text(max_size=5),
            "state": st.integers(0, 6),
            "created_at": _STAMPS,
            "updated_at": _STAMPS,
            "result_size_bytes": st.integers(0, 2),
        },
        optional={
            "media_type": _WORDS,
            "lane_mode": st.integers(0, 9),
            "fallback_reason": st.integers(0, 9),
            "failure": st.builds(generation_pb2.Failure, code=_WORDS, message=_WORDS),
        },
    ),
)
def test_a_task_is_refused_by_its_fields_or_can_be_stored_and_shown_when_its_message_is_any(
    request: dict[str, Any], values: dict[str, Any]
) -> None:
    message = pb.ImportedTask(request=generation_pb2.GenerationRequest(**request), **values)
    if fields(message):
        return
    task = imported_task(message, NOW)
    assert rows.task_of(rows.task_row(task, rows.utc)) == task
    assert convert.task(convert.fresh(task)).SerializeToString()
