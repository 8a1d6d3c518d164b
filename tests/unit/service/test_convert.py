"""Core values as messages: what no service test shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from warmlane.admission.v1 import admission_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2

from admission.core.lanes import Lease
from admission.core.tasks import Failure, FailureCode, FallbackReason, LaneId, LaneMode, MemoryRecord, Stage, TaskState
from admission.engine_types import LaneWish
from admission.service import convert, convert_lanes
from runtime.rules.check import check_request
from runtime.rules.parameters import to_parameters
from runtime.wire import request_to_message
from tests.harness.tasks import START
from tests.unit.service.double import TASK_ID, a_task, a_view, a_wish


def test_request_is_whole_when_a_task_is_told() -> None:
    image = {"key": "inputs/" + "a" * 64}
    request = check_request(
        {
            "model": "anisora",
            "mode": "arbitrary_frame",
            "prompt": "a lake",
            "arbitrary_frames": [{"frame_index": 0, "image": image}, {"frame_index": 8, "image": image, "strength": 0.5}],
        }
    )

    message = convert.task(a_view(a_task(parameters=to_parameters(request))))

    assert message.request == request_to_message(request)


def test_task_stays_readable_when_the_rules_have_changed_since() -> None:
    task = a_task()
    parameters = dict(task.parameters) | {"steps": 9, "no_longer_known": True}

    message = convert.task(a_view(replace(task, parameters=parameters)))

    assert message.request.steps == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"state": TaskState.QUEUED},
        {"state": TaskState.QUEUED, "fallback_reason": FallbackReason.CAPACITY, "stage": Stage.QUEUED, "updated_at": START},
        {"state": TaskState.QUEUED, "attempt": 1, "lane_id": LaneId("lane-1"), "stage_detail": "waiting to run again"},
        {"state": TaskState.LEASED, "attempt": 1, "lane_id": LaneId("lane-1"), "lane_mode": LaneMode.DEGRADED_SHARED},
    ],
)
@pytest.mark.parametrize("is_duplicate", [False, True])
def test_who_submitted_a_task_is_told_the_same_as_who_asks_for_it_when_it_is_accepted(
    changes: dict[str, Any], *, is_duplicate: bool
) -> None:
    task = replace(a_task(), **changes)

    answer = convert.acceptance(task, is_duplicate=is_duplicate)

    assert answer == admission_service_pb2.SubmitTaskResponse(task=convert.task(convert.fresh(task)), is_duplicate=is_duplicate)


def test_acceptance_of_a_queued_task_goes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(convert, "task")

    assert convert.acceptance(a_task(), is_duplicate=False).task.task_id == a_task().task_id


def test_acceptance_is_told_when_the_message_does_not_have_a_parameter_any_more() -> None:
    task = a_task()
    task = replace(task, parameters=dict(task.parameters) | {"no_longer_known": True})

    answer = convert.acceptance(task, is_duplicate=False)

    assert answer.task == convert.task(convert.fresh(task))


def test_optional_facts_are_absent_when_nothing_is_known() -> None:
    message = convert.task(a_view(a_task()))

    assert (message.lane_mode, message.fallback_reason, message.lane_id) == (0, 0, "")
    assert not any(message.HasField(name) for name in ("queue_position", "eta", "failure", "result"))


def test_failed_task_says_why_and_where() -> None:
    task = a_task(
        TaskState.FAILED,
        stage=Stage.FAILED,
        attempt=3,
        lane_id=LaneId("lane-anisora"),
        lane_mode=LaneMode.DEGRADED_SHARED,
        fallback_reason=FallbackReason.CAPACITY,
        failure=Failure(code=FailureCode.LANE_LOST, message="Three lanes were lost."),
    )

    message = convert.task(a_view(task))

    assert message.failure == generation_pb2.Failure(code="lane_lost", message="Three lanes were lost.")
    assert (message.stage, message.lane_mode) == (task_pb2.STAGE_FAILED, task_pb2.LANE_MODE_DEGRADED_SHARED)
    assert (message.fallback_reason, message.attempt) == (task_pb2.FALLBACK_REASON_CAPACITY, 3)


def test_memory_says_only_why_when_nothing_was_measured() -> None:
    message = convert.memory(MemoryRecord(unmeasured_reason="lane lost"))

    assert message == generation_pb2.MemoryRecord(unmeasured_reason="lane lost")


def test_wish_is_a_bug_when_its_task_is_not_the_leased_one() -> None:
    wish = a_wish(1)
    lease = Lease(task_id=TASK_ID, attempt=2)

    with pytest.raises(ValueError, match="came with another task"):
        convert_lanes.attach_response(
            LaneWish(controller_epoch=3, wish=replace(wish.wish, lease=lease), task=a_task(attempt=1), report_interval_s=2.0)
        )
