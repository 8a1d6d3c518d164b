"""Errors as HTTP tells them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from http_bridge.errors import HttpError, from_service_error, validation_error
from runtime.errors import ErrorCode, ServiceError
from runtime.rules.request import Violation


def _body(error: HttpError) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(error.response().body))
    return body


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("validation_error", 422),
        ("vram_exceeded", 422),
        ("deadline_unreachable", 422),
        ("queue_overloaded", 503),
        ("task_not_found", 404),
        ("lane_not_found", 404),
        ("task_not_done", 425),
        ("rate_limited", 429),
        ("service_unavailable", 503),
        ("internal", 500),
    ],
)
def test_status_is_that_of_the_design_when_code_is_known(code: str, status: int) -> None:
    error = from_service_error(ServiceError(code=code, message="A sentence."))
    assert error.status == status
    body = _body(error)["detail"]
    assert (body["code"], body["detail"]) == (code, "A sentence.")
    assert body["user_action"].endswith(".")


@pytest.mark.parametrize("code", ["unauthenticated", "forbidden"])
def test_caller_is_not_blamed_when_admission_refuses_the_bridge(code: str) -> None:
    error = from_service_error(ServiceError(code=code, message="The token is not right."))
    assert (error.status, error.code, "token" in str(_body(error))) == (503, "service_unavailable", False)
    assert HttpError(code, "A sentence.").status in (401, 403)


def test_overload_has_the_contracts_names_and_numbers_when_admission_refuses() -> None:
    metadata = {"cause": "wait", "depth": "25", "max_depth": "25", "waited_s": "30.0", "max_wait_s": "30"}
    error = from_service_error(ServiceError(code=ErrorCode.QUEUE_OVERLOADED, message="Full.", metadata=metadata, retry_after_s=2.2))
    assert _body(error)["detail"]["metadata"] == {
        "cause": "wait",
        "depth": 25,
        "max_depth": 25,
        "waited_seconds": 30.0,
        "max_wait_seconds": 30.0,
    }
    assert error.headers["Retry-After"] == "3"


def test_facts_are_numbers_when_a_request_does_not_fit() -> None:
    metadata = {"predicted_bytes": "27", "limit_bytes": "21", "placement": "streamed", "max_num_frames": "49", "max_width": "832"}
    error = from_service_error(ServiceError(code=ErrorCode.VRAM_EXCEEDED, message="Too large.", metadata=metadata))
    assert (error.status, "Retry-After" in error.headers) == (422, False)
    assert _body(error)["detail"]["metadata"] == {
        "predicted_bytes": 27,
        "limit_bytes": 21,
        "placement": "streamed",
        "max_num_frames": 49,
        "max_width": 832,
    }


def test_times_are_spelled_out_when_a_request_cannot_end_in_time() -> None:
    metadata = {"predicted_s": "7200.0", "limit_s": "3600.0", "max_num_frames": "0"}
    error = from_service_error(ServiceError(code=ErrorCode.DEADLINE_UNREACHABLE, message="Too long.", metadata=metadata))
    assert _body(error)["detail"]["metadata"] == {"predicted_seconds": 7200.0, "limit_seconds": 3600.0, "max_num_frames": 0}


@pytest.mark.parametrize("code", ["queue_overloaded", "service_unavailable", "rate_limited"])
def test_retry_after_is_sent_when_error_brings_none(code: str) -> None:
    assert int(from_service_error(ServiceError(code=code, message="No.")).headers["Retry-After"]) >= 1


def test_retry_after_is_at_least_a_second_when_admission_says_less() -> None:
    error = from_service_error(ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="No.", retry_after_s=0.01))
    assert error.headers["Retry-After"] == "1"


def test_unknown_code_is_told_as_internal_without_its_text() -> None:
    error = from_service_error(ServiceError(code="brand_new", message="secret path"))
    assert error.status == 500
    assert _body(error)["detail"]["code"] == "internal"
    assert "secret" not in json.dumps(_body(error))


def test_fields_are_named_when_request_breaks_rules() -> None:
    error = validation_error((Violation(field="steps", message="must be 8"), Violation(field="fps", message="must be an integer")))
    body = _body(error)["detail"]
    assert body["metadata"]["fields"] == [
        {"field": "steps", "message": "must be 8"},
        {"field": "fps", "message": "must be an integer"},
    ]
    assert "steps" in body["detail"]
    assert "fps" in body["detail"]


def test_metadata_is_left_out_when_there_is_none() -> None:
    assert "metadata" not in _body(HttpError("not_found", "Nothing."))["detail"]


def test_violations_are_counted_when_there_are_too_many_to_name() -> None:
    # A body of a million wrong entries got a reply 11 times its own size.
    violations = tuple(Violation(field=f"frames[{number}]", message="is wrong") for number in range(123))
    detail = _body(validation_error(violations))["detail"]
    assert [entry["field"] for entry in detail["metadata"]["fields"]] == [f"frames[{number}]" for number in range(100)]
    assert detail["detail"].endswith("frames[99]. There are 23 more violations.")
