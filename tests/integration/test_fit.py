"""Fit over real gRPC: what a lane says of its memory decides what is taken, how it is rendered and what clients may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import memory_pb2

from tests.harness.admission_services import Stack, admission_stack, error_of, ready_lane, render, submission

_MIB = 1024**2


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Serves with a store in memory and a clock that the test moves."""
    async with admission_stack(tmp_path) as stack:
        yield stack


def memory() -> memory_pb2.WorkerMemory:
    """1000 MiB for 600 or 200 MiB of weights and 100 KiB a token."""
    rungs = [
        memory_pb2.Rung(
            placement=placement,
            phases=[memory_pb2.PhaseCost(phase="denoise", weights_bytes=weights * _MIB, per_token=100 * 1024)],
        )
        for placement, weights in (("resident", 600), ("streamed", 200))
    ]
    limits = memory_pb2.DeviceLimits(gpu="NVIDIA Test", total_bytes=1200 * _MIB, other_bytes=100 * _MIB, margin_bytes=100 * _MIB)
    return memory_pb2.WorkerMemory(limits=limits, ladders=[memory_pb2.ModelLadder(model="anisora", rungs=rungs)])


def sized(width: int, height: int, num_frames: int) -> pb.SubmitTaskRequest:
    """A request of this size."""
    request = submission()
    request.request.width, request.request.height, request.request.num_frames = width, height, num_frames
    return request


async def test_what_fits_is_rendered_as_predicted_and_what_does_not_is_refused_with_what_would(stack: Stack) -> None:
    lane = await ready_lane(stack, memory=memory())

    error = await error_of(stack.clients.SubmitTask(sized(512, 512, 81), timeout=5))

    # 21 latent frames of 1024 tokens; 800 MiB are 8192: 8 latent frames, of which AniSora can make 25 frames (8k + 1).
    assert error.code == "vram_exceeded"
    assert {name: error.metadata[name] for name in ("predicted_bytes", "limit_bytes", "placement")} == {
        "predicted_bytes": str(200 * _MIB + 21 * 1024 * 100 * 1024),
        "limit_bytes": str(1000 * _MIB),
        "placement": "streamed",
    }
    assert (await stack.clients.ListTasks(pb.ListTasksRequest(), timeout=5)).total == 0
    frames = int(error.metadata["max_num_frames"])
    accepted = (await stack.clients.SubmitTask(sized(512, 512, frames), timeout=5)).task
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    assert (lease.task_id, lease.placement) == (accepted.task_id, "streamed")
    assert 0 < lease.predicted_peak_bytes <= 1000 * _MIB


async def test_prediction_and_limits_change_when_a_lane_measured_more(stack: Stack) -> None:
    lane = await ready_lane(stack, memory=memory())
    await stack.clients.SubmitTask(sized(512, 512, 25), timeout=5)
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    # 700 MiB of activations, and 10 % more were measured.
    record = generation_pb2.MemoryRecord(
        placement="streamed", phase_peaks=[generation_pb2.PhasePeak(phase="denoise", peak_bytes=970 * _MIB)]
    )
    await render(stack, lane, lease, b"video", record)
    await lane.wish(lambda desired: desired.HasField("acknowledged"))

    models = (await stack.clients.ListModels(pb.ListModelsRequest(), timeout=5)).models

    limits = next(model.limits for model in models if model.id == "anisora")
    size = next(size for size in limits.sizes if (size.width, size.height) == (512, 512))
    assert list(limits.gpus) == ["NVIDIA Test"]
    assert size.placement == "streamed"
    # To the byte but one: the factor is a fraction.
    assert size.predicted_peak_bytes == pytest.approx(970 * _MIB, abs=1)


async def test_weights_of_text_to_video_are_told_of_models_and_tasks_when_lanes_tell_them(stack: Stack) -> None:
    async def told() -> dict[str, list[str]]:
        models = (await stack.clients.ListModels(pb.ListModelsRequest(), timeout=5)).models
        return {model.id: list(model.text_to_video_weights) for model in models}

    assert await told() == {"anisora": [], "phr00t": []}  # no lane is known, and the baseline GPU has no folder
    reported = memory()
    reported.ladders[0].text_to_video_weights = "text_to_video_pair"
    lane = await ready_lane(stack, memory=reported)
    assert await told() == {"anisora": ["text_to_video_pair"], "phr00t": []}

    task = (await stack.clients.SubmitTask(sized(256, 256, 9), timeout=5)).task
    lease = (await lane.wish(lambda desired: desired.HasField("lease"))).lease
    await render(stack, lane, lease, b"video", generation_pb2.MemoryRecord(device="cpu", text_to_video_weights="text_to_video_pair"))
    await lane.wish(lambda desired: desired.HasField("acknowledged"))

    events = (await stack.clients.GetTask(pb.GetTaskRequest(task_id=task.task_id), timeout=5)).task.events
    assert [event.memory.text_to_video_weights for event in events if event.event_type == "memory_record"] == ["text_to_video_pair"]


async def test_memory_of_a_lane_is_shown_to_operators(stack: Stack) -> None:
    await ready_lane(stack, memory=memory())

    [lane] = (await stack.snapshot()).lanes

    assert (lane.gpu, lane.memory_budget_bytes, list(lane.retired_placements)) == ("NVIDIA Test", 1000 * _MIB, [])
