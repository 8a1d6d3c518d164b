"""Messages of admission as replies."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from warmlane.admission.v1.admission_service_pb2 import TaskSort
from warmlane.admission.v1.task_pb2 import FallbackReason, LaneMode, Stage, TaskEvent, TaskState
from warmlane.generation.v1.generation_pb2 import ArbitraryFrame, Failure, GenerationRequest, InputImage, MemoryRecord, Result

from http_bridge.convert import Links, gallery_item, status_reply, task_sort
from tests.harness.access_double import stamp
from tests.harness.admission_double import CREATED_AT, make_task

PATHS = Links()


def test_status_has_no_urls_and_no_error_when_task_is_queued() -> None:
    reply = status_reply(make_task("a", queue_position=0, eta=Duration(seconds=12, nanos=500_000_000)), PATHS)
    assert reply.model_dump() == {
        "task_id": "a",
        "status": "pending",
        "progress": 0,
        "stage": "queued",
        "stage_detail": None,
        "lane_mode": None,
        "fallback_reason": None,
        "diagnostics": None,
        "result_url": None,
        "preview_url": None,
        "error": None,
        "error_msg": None,
        "error_code": None,
        "created_at": CREATED_AT,
        "updated_at": CREATED_AT,
        "queue_position": 0,
        "eta_seconds": 12.5,
        "attempt": 0,
        "text_to_video_weights": None,
    }


@pytest.mark.parametrize(
    ("state", "status"),
    [("QUEUED", "pending"), ("LEASED", "processing"), ("DONE", "done"), ("FAILED", "failed"), ("CANCELLED", "failed")],
)
def test_status_is_one_of_four_words_when_task_is_in_any_state(state: str, status: str) -> None:
    assert status_reply(make_task("a", state=TaskState.Value(f"TASK_STATE_{state}")), PATHS).status == status


def test_status_says_why_when_the_shared_pool_serves() -> None:
    event = TaskEvent(event_type="fallback_activated", value="degraded_shared", reason="capacity", created_at=stamp(CREATED_AT))
    task = make_task(
        "a",
        state=TaskState.TASK_STATE_LEASED,
        stage=Stage.STAGE_INFERENCE,
        stage_detail="step 3 of 8",
        lane_mode=LaneMode.LANE_MODE_DEGRADED_SHARED,
        fallback_reason=FallbackReason.FALLBACK_REASON_CAPACITY,
        events=[event],
    )
    reply = status_reply(task, PATHS)
    assert (reply.lane_mode, reply.fallback_reason, reply.stage, reply.stage_detail) == (
        "degraded_shared",
        "capacity",
        "inference",
        "step 3 of 8",
    )
    assert reply.diagnostics is not None
    assert reply.diagnostics.model_dump()["events"] == [
        {"event_type": "fallback_activated", "value": "degraded_shared", "reason": "capacity", "created_at": CREATED_AT}
    ]


def test_status_tells_the_weights_of_the_last_attempt_when_a_text_was_rendered() -> None:
    records = [
        TaskEvent(event_type="memory_record", memory=MemoryRecord(text_to_video_weights=weights), created_at=stamp(CREATED_AT))
        for weights in ("image_to_video_experts", "text_to_video_pair", "")
    ]
    assert status_reply(make_task("a", events=records), PATHS).text_to_video_weights == "text_to_video_pair"


def test_both_error_members_have_the_text_when_task_failed() -> None:
    failure = Failure(code="render_failed", message="The pipeline raised.")
    reply = status_reply(make_task("a", state=TaskState.TASK_STATE_FAILED, stage=Stage.STAGE_FAILED, failure=failure), PATHS)
    assert (reply.error, reply.error_msg, reply.error_code) == ("The pipeline raised.", "The pipeline raised.", "render_failed")


def test_error_code_is_cancelled_when_task_was_cancelled() -> None:
    assert status_reply(make_task("a", state=TaskState.TASK_STATE_CANCELLED), PATHS).error_code == "cancelled"


def test_urls_are_absolute_when_the_public_base_is_known() -> None:
    task = make_task("a", state=TaskState.TASK_STATE_DONE, result=Result(preview_key="p"))
    reply = status_reply(task, Links(base_url="https://host/api"))
    assert (reply.result_url, reply.preview_url) == ("https://host/api/results/a", "https://host/api/preview/a")


def test_stage_and_mode_are_as_if_unset_when_a_newer_server_sends_unknown_ones() -> None:
    task = make_task("a")
    task.ParseFromString(task.SerializeToString() + b"\x28\x63\x38\x63")  # stage (5) and lane_mode (7) = 99
    reply = status_reply(task, PATHS)
    assert (reply.stage, reply.lane_mode) == ("queued", None)


def test_item_has_the_used_parameters_without_images_when_task_is_listed() -> None:
    image = InputImage(key="inputs/" + "a" * 64)
    request = GenerationRequest(
        num_frames=17,
        seed=5,
        reference_image=image,
        negative_prompt="blur",
        arbitrary_frames=[ArbitraryFrame(frame_index=8, image=image, strength=0.5)],
    )
    item = gallery_item(make_task("a", request=request, result=Result(width=496, height=480, preview_key="p")), PATHS)
    assert item.parameters["num_frames"] == 17
    assert item.parameters["arbitrary_frames"] == [{"frame_index": 8, "strength": 0.5}]
    assert "inputs/" not in item.model_dump_json()
    assert (item.id, item.model, item.type, item.mode, item.prompt, item.negative_prompt) == (
        "a",
        "anisora",
        "video",
        "t2v",
        "a lake",
        "blur",
    )
    assert (item.width, item.height, item.seed) == (496, 480, 5)
    assert (item.preview_url, item.result_url) == ("/preview/a", "/results/a")


@pytest.mark.parametrize(
    ("name", "sort"), [("width", TaskSort.TASK_SORT_WIDTH), ("model", TaskSort.TASK_SORT_MODEL), ("prompt", TaskSort.TASK_SORT_CREATED_AT)]
)
def test_unknown_sort_means_creation_when_asked(name: str, sort: TaskSort.ValueType) -> None:
    assert task_sort(name) == sort
