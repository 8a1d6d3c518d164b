"""Between the lane's plain values and the messages of its protocol; the only module of the lane that knows both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_never

from google.protobuf import duration_pb2, timestamp_pb2
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1 import memory_pb2

from runtime.fit.cost import Rung, WorkerMemory
from runtime.lane.loading import LoadProgress
from runtime.lane.outcome import MemoryRecord, Outcome, OutOfMemory, Phase, ResidencyChange
from runtime.lane.start_failure import StartCause, StartFailure
from runtime.lane.state import Activity, Attempt, Ended, Idle, LaneState, Wish, Working
from runtime.lane.work import WorkerStatus

PROTOCOL_VERSION = 1

_PHASES = {
    Phase.LOADING: pb.WORK_PHASE_LOADING,
    Phase.INFERENCE: pb.WORK_PHASE_INFERENCE,
    Phase.ENCODING: pb.WORK_PHASE_ENCODING,
}

_CAUSES = {cause: generation_pb2.StartFailureCause.Value(f"START_FAILURE_CAUSE_{cause.name}") for cause in StartCause}

_FIGURES = (
    "allocated_bytes",
    "reserved_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "driver_free_bytes",
    "host_rss_before_bytes",
    "host_rss_after_bytes",
    "host_rss_peak_bytes",
    "pinned_bytes",
    "drift_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneIdentity:
    """What a lane is.

    Attributes:
        is_dedicated: it serves one model and keeps it warm; otherwise any of its models, one resident at a time.
        models: ids of the models that it serves.
        catalog: dotted name of the `renderer.Catalog` that loads them.
        boot_id: new at every start of the agent.
    """

    lane_id: str
    boot_id: str
    is_dedicated: bool
    models: tuple[str, ...]
    catalog: str


def wish_of(stream: int, desired: pb.DesiredState) -> Wish:
    """What the message wishes of the state machine."""
    settled = [name for name in ("acknowledged_before", "acknowledged") if desired.HasField(name)]
    return Wish(
        stream=stream,
        epoch=desired.controller_epoch,
        sequence=desired.sequence,
        lease=_attempt(desired.lease) if desired.HasField("lease") else None,
        acknowledged=tuple(_attempt(getattr(desired, name)) for name in settled),
        finishing=_attempt(desired.finishing) if desired.HasField("finishing") else None,
    )


def report_message(identity: LaneIdentity, state: LaneState, status: WorkerStatus, *, seen_sequence: int) -> pb.LaneReport:
    """The lane's whole state."""
    report = pb.LaneReport(
        protocol_version=PROTOCOL_VERSION,
        lane_id=identity.lane_id,
        boot_id=identity.boot_id,
        kind=pb.LANE_KIND_DEDICATED if identity.is_dedicated else pb.LANE_KIND_DEGRADED,
        models=identity.models,
        seen_sequence=seen_sequence,
        warm=status.warm,
        resident_model=status.resident_model,
        healthy=status.healthy,
        reason=status.reason,
        draining=state.draining,
        cold_starts=status.cold_starts,
        device=status.device,
        object_store_failure=status.object_store_failure,
    )
    if status.load is not None:
        report.load.CopyFrom(_load_message(status.load))
    if status.failure is not None:
        report.start_failure.CopyFrom(_failure_message(status.failure))
    if status.memory is not None:
        report.memory.CopyFrom(worker_memory_message(status.memory))
    for field, work in ((report.work, _work(state.activity)), (report.finishing, _work(state.finishing))):
        if work is not None:
            field.CopyFrom(work)
    return report


def memory_message(record: MemoryRecord) -> generation_pb2.MemoryRecord:
    """The record with every figure that is known."""
    message = generation_pb2.MemoryRecord(
        unmeasured_reason=record.unmeasured_reason,
        device=record.device,
        placement=record.placement,
        predicted_peak_bytes=record.predicted_peak_bytes,
        phase_peaks=[generation_pb2.PhasePeak(phase=one.phase, peak_bytes=one.peak_bytes) for one in record.phase_peaks],
        out_of_memory=[_out_of_memory(one) for one in record.out_of_memory],
        text_to_video_weights=record.text_to_video_weights,
    )
    for name in _FIGURES:
        figure = getattr(record, name)
        if figure is not None:
            setattr(message, name, figure)
    if record.cleanup_s is not None:
        message.cleanup_duration.CopyFrom(duration_message(record.cleanup_s))
    message.measured_at.CopyFrom(_timestamp(record.measured_at))
    if record.residency_change is not None:
        message.residency_change.CopyFrom(_change_message(record.residency_change))
    return message


def _out_of_memory(one: OutOfMemory) -> generation_pb2.OutOfMemory:
    return generation_pb2.OutOfMemory(phase=one.phase, placement=one.placement, peak_bytes=one.peak_bytes, budget_bytes=one.budget_bytes)


def worker_memory_message(memory: WorkerMemory) -> memory_pb2.WorkerMemory:
    """What admission needs to know of the worker's memory."""
    limits = memory.limits
    return memory_pb2.WorkerMemory(
        limits=memory_pb2.DeviceLimits(
            gpu=limits.gpu,
            total_bytes=limits.total_bytes,
            other_bytes=limits.other_bytes,
            margin_bytes=limits.margin_bytes,
            host_bytes=limits.host_bytes,
            pinned_limit_bytes=limits.pinned_limit_bytes,
        ),
        ladders=[
            memory_pb2.ModelLadder(
                model=ladder.model,
                rungs=[_rung_message(rung) for rung in ladder.rungs],
                text_to_video_weights=ladder.text_to_video_weights,
            )
            for ladder in memory.ladders
        ],
    )


def duration_message(seconds: float) -> duration_pb2.Duration:
    """Seconds as a message, to the microsecond."""
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message


def _load_message(load: LoadProgress) -> generation_pb2.LoadProgress:
    return generation_pb2.LoadProgress(model=load.model, stage=load.stage, read_bytes=load.read_bytes, total_bytes=load.total_bytes)


def _failure_message(failure: StartFailure) -> generation_pb2.StartFailure:
    return generation_pb2.StartFailure(
        cause=_CAUSES[failure.cause],
        reason=failure.reason,
        attempts=failure.attempts,
        next_attempt_at=_timestamp(failure.next_attempt_at),
    )


def _rung_message(rung: Rung) -> memory_pb2.Rung:
    return memory_pb2.Rung(
        placement=rung.placement,
        phases=[
            memory_pb2.PhaseCost(
                phase=cost.phase,
                weights_bytes=cost.weights_bytes,
                fixed=cost.activations.fixed,
                per_token=cost.activations.per_token,
                per_pixel=cost.activations.per_pixel,
                per_frame_pixel=cost.activations.per_frame_pixel,
                modes=cost.modes,
            )
            for cost in rung.phases
        ],
        host_bytes=rung.host_bytes,
        pinned_bytes=rung.pinned_bytes,
    )


def _attempt(reference: pb.Lease | pb.AttemptReference) -> Attempt:
    return Attempt(task_id=reference.task_id, number=reference.attempt)


def _work(activity: Activity) -> pb.Work | None:
    match activity:
        case Idle():
            return None
        case Working(attempt=attempt, progress=progress, detail=detail, gpu_free=gpu_free):
            phase = _PHASES[activity.phase]
            return pb.Work(
                task_id=attempt.task_id, attempt=attempt.number, phase=phase, progress=progress, detail=detail, gpu_free=gpu_free
            )
        case Ended(attempt=attempt, outcome=outcome, progress=progress):
            return pb.Work(
                task_id=attempt.task_id,
                attempt=attempt.number,
                phase=pb.WORK_PHASE_ENDED,
                progress=progress,
                outcome=_outcome_message(outcome),
                gpu_free=True,
            )
        case _:
            assert_never(activity)


def _outcome_message(outcome: Outcome) -> pb.Outcome:
    message = pb.Outcome(memory=memory_message(outcome.memory))
    if outcome.render_s is not None:
        message.render_duration.CopyFrom(duration_message(outcome.render_s))
    if outcome.denoise_s is not None:
        message.denoise_duration.CopyFrom(duration_message(outcome.denoise_s))
    result = outcome.result
    if result is not None:
        message.result.CopyFrom(
            generation_pb2.Result(
                video_key=result.video_key,
                media_type=result.media_type,
                size_bytes=result.size_bytes,
                sha256=result.sha256,
                preview_key=result.preview_key,
                width=result.width,
                height=result.height,
                num_frames=result.num_frames,
                fps=result.fps,
            )
        )
    elif outcome.failure is not None:
        message.failure.CopyFrom(generation_pb2.Failure(code=outcome.failure.code, message=outcome.failure.message))
    return message


def _change_message(change: ResidencyChange) -> generation_pb2.ResidencyChange:
    return generation_pb2.ResidencyChange(
        released_model=change.released_model,
        loaded_model=change.loaded_model,
        residue_bytes=change.residue_bytes,
        release_duration=duration_message(change.release_s),
        load_duration=duration_message(change.load_s),
        process_replaced=change.process_replaced,
        released_bytes=change.released_bytes,
        loaded_bytes=change.loaded_bytes,
        from_host=change.from_host,
    )
