"""What a lane may say of itself, its memory and its attempts, whole: for tests that spoil it."""

from __future__ import annotations

from random import Random
from typing import Any

from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as lane_pb
from warmlane.lane.v1 import memory_pb2


def good_memory() -> memory_pb2.WorkerMemory:
    """What a lane may say of its memory."""
    phase = memory_pb2.PhaseCost(phase="denoise", weights_bytes=2**30, fixed=1e6, per_token=1e5, per_pixel=10.0, modes=["t2v"])
    rung = memory_pb2.Rung(placement="resident", phases=[phase], host_bytes=2**30, pinned_bytes=2**20)
    limits = memory_pb2.DeviceLimits(gpu="tiny", total_bytes=2**36, other_bytes=1, margin_bytes=1, host_bytes=2**36, pinned_limit_bytes=1)
    ladder = memory_pb2.ModelLadder(model="anisora", rungs=[rung], text_to_video_weights="image_to_video_experts")
    return memory_pb2.WorkerMemory(limits=limits, ladders=[ladder])


def good_outcome(lease: lane_pb.Lease, *, is_done: bool) -> lane_pb.Outcome:
    """How a lane may say that an attempt ended."""
    record = generation_pb2.MemoryRecord(
        device="cpu",
        allocated_bytes=1,
        placement="resident",
        text_to_video_weights="image_to_video_experts",
        drift_bytes=1,
        phase_peaks=[generation_pb2.PhasePeak(phase="denoise", peak_bytes=2**31)],
        out_of_memory=[generation_pb2.OutOfMemory(phase="denoise", placement="resident", peak_bytes=1, budget_bytes=2)],
        residency_change=generation_pb2.ResidencyChange(released_model="phr00t", loaded_model="anisora"),
    )
    record.cleanup_duration.FromMilliseconds(5)
    record.measured_at.FromSeconds(1_700_000_000)
    outcome = lane_pb.Outcome(memory=record)
    outcome.render_duration.FromSeconds(12)
    outcome.denoise_duration.FromSeconds(10)
    if is_done:
        keys = {name: f"{lease.artifact_prefix}{name}" for name in ("video.mp4", "preview.jpg")}
        result: dict[str, Any] = {"size_bytes": 1, "sha256": "0" * 64, "width": 16, "height": 16, "num_frames": 5, "fps": 16}
        outcome.result.CopyFrom(
            generation_pb2.Result(video_key=keys["video.mp4"], preview_key=keys["preview.jpg"], media_type="video/mp4", **result)
        )
    else:
        outcome.failure.CopyFrom(generation_pb2.Failure(code="render_failed", message="it broke"))
    return outcome


def good_report(lease: lane_pb.Lease, random: Random, boot: int) -> lane_pb.LaneReport:
    """What a lane may say, more at once than any lane does."""
    report = lane_pb.LaneReport(
        protocol_version=1,
        lane_id="lane-anisora",
        boot_id=f"boot-{boot}",
        kind=lane_pb.LANE_KIND_DEDICATED,
        models=["anisora"],
        resident_model="anisora",
        warm=True,
        healthy=True,
        reason="all is well",
        object_store_failure="no route" if random.random() < 0.5 else "",
        device="cpu",
        cold_starts=random.randrange(5),
        memory=good_memory(),
        load=generation_pb2.LoadProgress(model="anisora", stage="reading", read_bytes=1, total_bytes=2),
        start_failure=generation_pb2.StartFailure(cause=generation_pb2.START_FAILURE_CAUSE_OTHER, reason="no", attempts=1),
    )
    if lease.task_id:
        work = report.work
        work.task_id, work.attempt, work.progress, work.detail = lease.task_id, lease.attempt, 10, "step 1 of 8"
        work.phase = lane_pb.WORK_PHASE_INFERENCE
        if random.random() < 0.5:
            work.phase = lane_pb.WORK_PHASE_ENDED
            work.outcome.CopyFrom(good_outcome(lease, is_done=random.random() < 0.5))
    return report
