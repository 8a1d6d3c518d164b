"""Without dedicated lanes the pool serves both models, one resident at a time, and says so."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.generation.v1.generation_pb2 import MemoryRecord

from tests.harness.http import Frontend, fetch
from tests.harness.stack import Stack
from tests.harness.video import decode

MODELS = ("anisora", "phr00t")


@pytest.fixture
def sent_to_the_pool(stack: Stack) -> Iterator[None]:
    """While this lasts, both models are the pool's: an operator said so."""
    try:
        for model in MODELS:
            _send_to_the_pool(stack, model, enabled=True)
        yield
    finally:
        for model in MODELS:
            _send_to_the_pool(stack, model, enabled=False)


def _send_to_the_pool(stack: Stack, model: str, *, enabled: bool) -> None:
    url = f"{stack.http_url}/admin/models/{model}/fallback"
    fetch("POST", url, headers={"X-Admin-Key": stack.admin_key}, json={"enabled": enabled}).raise_for_status()


@pytest.mark.usefixtures("sent_to_the_pool")
def test_pool_serves_both_and_records_the_switch_when_an_operator_sends_them_there(stack: Stack, frontend: Frontend) -> None:
    body = {"prompt": "a harbour", "width": 256, "height": 256, "num_frames": 9}
    frontend.render(model="phr00t", **body)
    status, content = frontend.render(model="anisora", **body)
    assert decode(content).frames == 9
    assert (status["lane_mode"], status["fallback_reason"]) == ("degraded_shared", "manual")
    _is_switch(_memory_of(stack, status["task_id"]))


# The others need a stack of their own. Their short form is the one above, and what makes a fallback of a lost lane is tested in
# tests/unit/core and tests/integration/test_incidents.py.
@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_pool_serves_and_status_says_why_when_the_dedicated_lane_is_away(pool_frontend: Frontend, model: str) -> None:
    status, content = pool_frontend.render(model=model, prompt="a cliff in mist", width=256, height=256, num_frames=9, seed=2)
    assert decode(content).frames == 9
    assert (status["lane_mode"], status["fallback_reason"]) == ("degraded_shared", "capacity")
    assert any(event["event_type"] == "fallback_activated" for event in status["diagnostics"]["events"])


@pytest.mark.long
def test_switch_is_recorded_when_the_pool_changes_its_model(pool_stack: Stack, pool_frontend: Frontend) -> None:
    body = {"prompt": "a harbour", "width": 256, "height": 256, "num_frames": 5}
    pool_frontend.render(model="phr00t", **body)
    status, _ = pool_frontend.render(model="anisora", **body)
    _is_switch(_memory_of(pool_stack, status["task_id"]))


def _is_switch(memory: MemoryRecord) -> None:
    change = memory.residency_change
    assert (change.released_model, change.loaded_model) == ("phr00t", "anisora")
    assert change.released_bytes > 0
    assert change.residue_bytes == 0


@pytest.mark.long
def test_same_request_gives_the_same_bytes_on_the_pool_and_on_the_dedicated_lane(frontend: Frontend, pool_frontend: Frontend) -> None:
    body = {"model": "anisora", "prompt": "a bridge", "width": 256, "height": 256, "num_frames": 9, "seed": 4}
    assert frontend.render(**body)[1] == pool_frontend.render(**body)[1]


@pytest.mark.long
def test_pool_leaves_no_residue_when_it_alternates_20_times(pool_stack: Stack, pool_frontend: Frontend) -> None:
    for turn in range(20):
        model = MODELS[turn % 2]
        status, _ = pool_frontend.render(model=model, prompt=f"scene {turn}", width=256, height=256, num_frames=5, seed=turn)
        memory = _memory_of(pool_stack, status["task_id"])
        assert memory.unmeasured_reason == ""
        assert memory.residency_change.residue_bytes == 0
        assert not memory.residency_change.process_replaced


def _memory_of(stack: Stack, task_id: str) -> MemoryRecord:
    with grpc.insecure_channel(stack.grpc_address) as channel:
        task = AdmissionServiceStub(channel).GetTask(admission.GetTaskRequest(task_id=task_id), timeout=10.0).task
    (memory,) = [event.memory for event in task.events if event.event_type == "memory_record"]
    return memory
