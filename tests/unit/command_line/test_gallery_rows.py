"""What of an existing gallery's rows is taken over, and that no row can stop an import."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warmlane.admission.v1 import task_pb2

from command_line.gallery.database import COLUMNS
from command_line.gallery.rows import LOST, Kept, StaysBehind, Wanted, read_row, shown


def row(**values: Any) -> dict[str, Any]:
    """A done row of anisora."""
    return {
        "id": "task-1",
        "status": "done",
        "model": "anisora",
        "created_at": "2025-03-01T10:00:00",
        "prompt": "a lake",
        "result_path": "a.mp4",
        **values,
    }


def wanted(**values: Any) -> Wanted:
    found = read_row(row(**values))
    assert isinstance(found, Wanted), found
    return found


def left(**values: Any) -> StaysBehind:
    found = read_row(row(**values))
    assert isinstance(found, StaysBehind), found
    return found


def test_everything_that_is_known_is_taken_when_a_row_is_whole() -> None:
    parameters = {
        "frames": 33, "cfg": 1, "motion_score": 2.5, "fps": 8, "sampler": "euler", "guidance_scale": "high",
        "reference_image": "data:image/png;base64,AAAA", "last_frame_image": None, "model": "pony", "prompt": "another", "width": 0,
    }  # fmt: skip
    found = wanted(
        parameters=json.dumps(parameters), mode="i2v", negative_prompt="rain", width=640, height=480, seed=-1, lane_mode="degraded_shared",
        fallback_reason="capacity", updated_at="2025-03-01 11:30:00.5+02:00", preview_path="a.jpg",
    )  # fmt: skip
    task, request = found.task, found.task.request
    assert (request.model, request.mode, request.prompt, request.negative_prompt) == ("anisora", "i2v", "a lake", "rain")
    assert (request.width, request.height, request.seed, request.num_frames, request.fps) == (640, 480, -1, 33, 8)
    assert (request.cfg_scale, request.motion_score, request.HasField("guidance_scale")) == (1.0, 2.5, False)
    assert (task.state, task.lane_mode, task.fallback_reason) == (
        task_pb2.TASK_STATE_DONE, task_pb2.LANE_MODE_DEGRADED_SHARED, task_pb2.FALLBACK_REASON_CAPACITY,
    )  # fmt: skip
    assert task.created_at.ToDatetime(tzinfo=UTC) == datetime(2025, 3, 1, 10, tzinfo=UTC)
    assert task.updated_at.ToDatetime(tzinfo=UTC) == datetime(2025, 3, 1, 9, 30, 0, 500_000, tzinfo=UTC)
    assert (found.result, found.preview) == ("a.mp4", "a.jpg")
    assert (found.unknown, found.unusable, found.images) == (("sampler",), ("guidance_scale",), ("reference_image",))


def test_the_fields_own_name_wins_when_its_other_name_comes_too() -> None:
    for text in ('{"num_frames": 17, "frames": 33}', '{"frames": 33, "num_frames": 17}'):
        assert wanted(parameters=text).task.request.num_frames == 17


def test_parameters_stand_in_when_a_column_is_empty() -> None:
    found = wanted(prompt=None, parameters=json.dumps({"prompt": "a sea", "mode": "i2v", "width": 256, "seed": 5}))
    assert (found.task.request.prompt, found.task.request.mode, found.task.request.width) == ("a sea", "i2v", 256)


@pytest.mark.parametrize("text", ["2025-03-01T10:00:00Z", "2025-03-01 10:00:00", "2025-03-01T10:00:00.000000123", "2025-03-01T12:00+02:00"])
def test_time_is_understood_when_it_is_iso(text: str) -> None:
    stamp = wanted(created_at=text).task.created_at
    assert stamp.ToDatetime(tzinfo=UTC) == datetime(2025, 3, 1, 10, tzinfo=UTC)


def test_updated_is_created_when_it_is_missing() -> None:
    found = wanted(updated_at=None)
    assert found.task.updated_at == found.task.created_at


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"id": None}, "id must"),
        ({"id": "a b"}, "id must"),
        ({"id": "../x"}, "id must"),
        ({"id": b"x"}, "id must"),
        ({"id": "image-7"}, "image models"),
        ({"status": "exploded"}, "status exploded"),
        ({"status": None}, "status (none)"),
        ({"model": "sora"}, "model sora"),
        ({"model": None}, "model (none)"),
        ({"mode": "arbitrary_frame", "model": "phr00t"}, "mode arbitrary_frame"),
        ({"mode": 3}, "mode 3"),
        ({"created_at": None}, "created_at"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"created_at": 1740823200}, "created_at"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at"),
        ({"updated_at": "2025-13-01"}, "updated_at"),
        ({"parameters": "{"}, "no JSON"),
        ({"parameters": "[" * 100_000}, "no JSON"),
        ({"parameters": b"\xff"}, "no JSON"),
        ({"parameters": 7}, "no JSON"),
        ({"parameters": "9" * 10_000}, "no JSON"),
        ({"parameters": "[1]"}, "no object"),
        ({"prompt": b"bytes"}, "prompt is not text"),
    ],
)
def test_row_is_left_with_the_reason_when_something_is_wrong(values: dict[str, Any], reason: str) -> None:
    found = left(**values)
    assert found.kept is Kept.REFUSED
    assert reason in found.reason


@pytest.mark.parametrize("values", [{"model": "pony"}, {"model": "flux", "type": "image", "status": "pending"}, {"type": "image"}])
def test_row_is_the_image_models_when_its_model_or_type_says_so(values: dict[str, Any]) -> None:
    assert left(**values).kept is Kept.IMAGE_MODEL


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_row_is_named_or_becomes_a_failed_task_when_it_had_not_ended(status: str) -> None:
    assert (left(status=status).kept, status in left(status=status).reason) == (Kept.UNFINISHED, True)
    found = read_row(row(status=status, error_msg="x"), failed_unfinished=True)
    assert isinstance(found, Wanted)
    assert (found.task.state, found.task.failure.message, found.result) == (task_pb2.TASK_STATE_FAILED, LOST, "")


def test_failed_row_says_why_on_one_line_when_it_said_it_on_many() -> None:
    found = wanted(status="failed", error_msg="Boom:\n\tout of \x1b[31mmemory" + "!" * 900)
    assert found.task.failure.message.startswith("Boom: out of [31mmemory!!!")
    assert len(found.task.failure.message) == 500
    assert wanted(status="failed", error_msg=None).task.failure.message == "The task failed."
    assert not wanted(status="cancelled").task.HasField("failure")


def test_control_characters_become_spaces_when_a_prompt_has_some() -> None:
    found = wanted(prompt="a\x00b\x1b[31m\tc\n\ud800")
    assert (found.task.request.prompt, found.is_cleaned) == ("a b [31m\tc\n ", True)
    assert not wanted(prompt="ein Süßwassersee 🌊\n").is_cleaned


def test_unusable_values_are_dropped_when_they_are_no_numbers_of_this_kind() -> None:
    parameters = '{"fps": true, "steps": 1e400, "num_frames": 17.5, "cfg_scale": NaN, "seed": 4294967296, "motion_score": -Infinity}'
    found = wanted(parameters=parameters)
    assert sorted(found.unusable) == ["cfg_scale", "fps", "motion_score", "num_frames", "seed", "steps"]


def test_shown_text_is_short_and_safe_when_the_value_is_not() -> None:
    assert shown("a\x1b[2J\n\u202e b" + "c" * 500) == "a [2J b" + "c" * 72 + "…"


_VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=30) | st.binary(max_size=20)
_PARAMETERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prompt", "frames", "cfg", "seed", "mode", "reference_image", "arbitrary_frames", "x"]), inner)
    ),
    max_leaves=8,
)
_GOOD = {
    "id": "task-1", "status": "done", "model": "phr00t", "mode": "t2v", "created_at": "2025-03-01T10:00:00Z", "width": 512,
}  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    values=st.dictionaries(st.sampled_from(COLUMNS), _VALUES),
    parameters=st.none() | _PARAMETERS.map(json.dumps),
    keeps=st.sets(st.sampled_from(sorted(_GOOD))),
    failed_unfinished=st.booleans(),
)
def test_a_row_is_wanted_or_left_with_a_reason_when_it_is_any(
    values: dict[str, Any], parameters: str | None, keeps: set[str], failed_unfinished: bool
) -> None:
    found = read_row({**values, "parameters": parameters, **{name: _GOOD[name] for name in keeps}}, failed_unfinished=failed_unfinished)
    if isinstance(found, Wanted):
        assert found.task.SerializeToString()
        assert found.task.request.model in ("anisora", "phr00t")
    else:
        assert found.reason
        assert len(found.reason) < 300
        assert found.reason.isprintable()
