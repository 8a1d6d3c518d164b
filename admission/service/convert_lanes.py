"""Between messages and core values, for lanes: reports in, wishes out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2

from admission.core.lanes import LaneSpec, Outcome, Report, Work
from admission.core.tasks import Failure, FailureCode, LaneId, LaneMode, MemoryRecord, Model, Result, Stage
from admission.engine_types import InvalidReportError
from admission.service import convert, convert_loads, convert_memory
from admission.service.texts import is_name, told
from runtime.objects import attempt_prefix
from runtime.rules.catalogue import MODELS
from runtime.traces.context import of_stored
from runtime.videos import VIDEO_TYPES

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from admission.core.lanes import Lease
    from admission.engine_types import LaneWish

# Longest texts that are kept of what a lane says for people; what is longer is cut, not refused.
_MAX_DETAIL = 200
_MAX_REASON = 500
_MAX_BOOT_ID = 128
_MAX_FIGURE_TEXT = 200
_MAX_DURATION_S = 24 * 3600.0

# Names of files and their types stand in addresses and headers of replies, which are made of them as they are.
_FILE_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_KINDS_BACK = {
    dispatch_service_pb2.LANE_KIND_DEDICATED: LaneMode.DEDICATED,
    dispatch_service_pb2.LANE_KIND_DEGRADED: LaneMode.DEGRADED_SHARED,
}
# An attempt that ended is still the last thing that was done: the core sets the final stage.
_PHASES_BACK = {
    dispatch_service_pb2.WORK_PHASE_LOADING: Stage.LOADING_PIPELINE,
    dispatch_service_pb2.WORK_PHASE_INFERENCE: Stage.INFERENCE,
    dispatch_service_pb2.WORK_PHASE_ENCODING: Stage.ENCODING,
    dispatch_service_pb2.WORK_PHASE_ENDED: Stage.ENCODING,
}


def attach_response(wish: LaneWish) -> dispatch_service_pb2.AttachResponse:
    """What admission wants of a lane."""
    desired = dispatch_service_pb2.DesiredState(
        controller_epoch=wish.controller_epoch,
        sequence=wish.wish.sequence,
        report_interval=convert.duration(wish.report_interval_s),
        drain=wish.wish.drain,
    )
    if wish.wish.lease is not None:
        desired.lease.CopyFrom(_lease(wish.wish.lease, wish))
    for reference, lease in (
        (desired.acknowledged, wish.wish.acknowledged),
        (desired.acknowledged_before, wish.wish.acknowledged_before),
        (desired.finishing, wish.wish.finishing),
    ):
        if lease is not None:
            reference.task_id, reference.attempt = lease.task_id, lease.attempt
    return dispatch_service_pb2.AttachResponse(desired=desired)


def report(message: dispatch_service_pb2.LaneReport, session: int) -> Report:
    """The lane's state; raises InvalidReportError naming the field that makes no sense."""
    spec = _spec(message)
    _require(is_name(message.boot_id, _MAX_BOOT_ID), f"boot_id must have 1 to {_MAX_BOOT_ID} printable characters")
    _require(message.seen_sequence >= 0, "seen_sequence must not be negative")
    _require(message.cold_starts >= 0, "cold_starts must not be negative")
    _require(not message.resident_model or message.resident_model in spec.models, "resident_model must be one of models")
    return Report(
        spec=spec,
        boot_id=message.boot_id,
        session=session,
        seen_sequence=message.seen_sequence,
        warm=message.warm,
        healthy=message.healthy,
        draining=message.draining,
        resident_model=Model(message.resident_model) if message.resident_model else None,
        reason=told(message.reason, _MAX_REASON),
        work=_work(message.work, "work") if message.HasField("work") else None,
        finishing=_finishing(message),
        cold_starts=message.cold_starts,
        load=convert_loads.reported_load(message.load, spec) if message.HasField("load") else None,
        start_failure=convert_loads.reported_failure(message.start_failure) if message.HasField("start_failure") else None,
        object_store_failure=told(message.object_store_failure, _MAX_REASON),
    )


def _lease(of: Lease, wish: LaneWish) -> dispatch_service_pb2.Lease:
    leased = wish.task
    if leased is None or (leased.task_id, leased.attempt) != (of.task_id, of.attempt):
        msg = f"the wish for task {of.task_id} attempt {of.attempt} came with another task"
        raise ValueError(msg)
    trace = of_stored(leased.trace)
    return dispatch_service_pb2.Lease(
        task_id=of.task_id,
        attempt=of.attempt,
        request=convert.request(leased),
        artifact_prefix=attempt_prefix(of.task_id, of.attempt),
        render_deadline=convert.duration(wish.wish.render_deadline_s),
        leased_at=convert.timestamp(leased.leased_at) if leased.leased_at is not None else None,
        placement=of.placement,
        predicted_peak_bytes=of.predicted_peak_bytes,
        traceparent="" if trace is None else trace.traceparent,
        tracestate="" if trace is None else trace.state,
    )


def _spec(message: dispatch_service_pb2.LaneReport) -> LaneSpec:
    _require(convert.may_be_lane(message.lane_id), "lane_id must be 1 to 63 of [a-z0-9-]")
    _require(message.kind in _KINDS_BACK, "kind must be dedicated or degraded")
    mode = _KINDS_BACK[message.kind]
    names = tuple(message.models)
    _require(len(names) > 0 and len(set(names)) == len(names) and MODELS.keys() >= set(names), "models must name known models, each once")
    _require(mode is not LaneMode.DEDICATED or len(names) == 1, "models of a dedicated lane must be exactly one")
    return LaneSpec(
        lane_id=LaneId(message.lane_id),
        mode=mode,
        models=tuple(Model(name) for name in names),
        device=told(message.device, _MAX_DETAIL),
        memory=convert_memory.memory(message.memory.SerializeToString(deterministic=True)) if message.HasField("memory") else None,
    )


def _finishing(message: dispatch_service_pb2.LaneReport) -> Work | None:
    if not message.HasField("finishing"):
        return None
    found = _work(message.finishing, "finishing")
    is_other = not message.HasField("work") or found.lease.task_id != message.work.task_id or found.attempt != message.work.attempt
    _require(is_other, "finishing must be another attempt than work")
    _require(found.gpu_free or found.outcome is not None, "finishing.gpu_free must be true until its end")
    return found


def _work(message: dispatch_service_pb2.Work, field: str) -> Work:
    known = convert.task_id(message.task_id)
    if known is None:
        raise InvalidReportError(f"{field}.task_id is no id of a task")
    _require(message.attempt >= 1, f"{field}.attempt must be at least 1")
    _require(message.phase in _PHASES_BACK, f"{field}.phase is unknown")
    _require(0 <= message.progress <= 100, f"{field}.progress must be 0 to 100")
    has_ended = message.phase == dispatch_service_pb2.WORK_PHASE_ENDED
    _require(has_ended == message.HasField("outcome"), f"{field}.outcome must be set in phase ENDED, and only then")
    return Work(
        task_id=known,
        attempt=message.attempt,
        stage=_PHASES_BACK[message.phase],
        progress=message.progress,
        detail=told(message.detail, _MAX_DETAIL),
        gpu_free=message.gpu_free,
        outcome=_outcome(message, f"{field}.outcome") if has_ended else None,
    )


def _outcome(work: dispatch_service_pb2.Work, field: str) -> Outcome:
    message = work.outcome
    end = message.WhichOneof("end")
    _require(end is not None, f"{field} must have a result or a failure")
    _require(message.HasField("memory"), f"{field}.memory must be set")
    return Outcome(
        result=_reported_result(message.result, attempt_prefix(work.task_id, work.attempt), field) if end == "result" else None,
        failure=_reported_failure(message.failure, field) if end == "failure" else None,
        memory=_memory_of(message.memory),
        denoise_s=_measured_s(message.denoise_duration) if message.HasField("denoise_duration") else None,
        render_s=_measured_s(message.render_duration) if message.HasField("render_duration") else None,
    )


def _measured_s(message: Duration) -> float | None:
    """None for what no render takes: a broken clock must not teach that nothing can be rendered in time."""
    found = convert.seconds(message)
    return found if 0 < found <= _MAX_DURATION_S else None


def _reported_result(message: generation_pb2.Result, prefix: str, field: str) -> Result:
    # The prefix is the fence around the files: a result can only name what its own attempt wrote.
    for name, key in (("video_key", message.video_key), ("preview_key", message.preview_key)):
        is_under = key.startswith(prefix) and _FILE_NAME.fullmatch(key.removeprefix(prefix)) is not None
        _require(is_under, f"{field}.result.{name} must lie under {prefix}")
    for name in ("size_bytes", "width", "height", "num_frames", "fps"):
        _require(getattr(message, name) > 0, f"{field}.result.{name} must be over 0")
    _require(message.media_type in VIDEO_TYPES, f"{field}.result.media_type must be one of {', '.join(VIDEO_TYPES)}")
    _require(_SHA256.fullmatch(message.sha256) is not None, f"{field}.result.sha256 must be 64 hexadecimal digits")
    return Result(**{name: getattr(message, name) for name in Result.__dataclass_fields__})


def _reported_failure(message: generation_pb2.Failure, field: str) -> Failure:
    try:
        code = FailureCode(message.code)
    except ValueError:
        raise InvalidReportError(f"{field}.failure.code is unknown") from None
    return Failure(code=code, message=told(message.message, _MAX_REASON))


def _memory_of(message: generation_pb2.MemoryRecord) -> MemoryRecord:
    if message.unmeasured_reason:
        return MemoryRecord(unmeasured_reason=told(message.unmeasured_reason, _MAX_REASON))
    return MemoryRecord(figures=_figures(message))


def _figures(message: Message) -> dict[str, object]:
    """The message as JSON, its 64-bit figures as numbers: the JSON form of protobuf spells them as texts."""
    try:
        figures = cast("dict[str, object]", json_format.MessageToDict(message, preserving_proto_field_name=True))
    except json_format.Error:
        raise InvalidReportError("memory has a time or a duration that there cannot be") from None
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_INT64:
            figures[field.name] = value
        elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING and not field.is_repeated:
            figures[field.name] = told(value, _MAX_FIGURE_TEXT)
        elif field.message_type is not None and field.message_type.full_name.startswith("warmlane."):
            figures[field.name] = [_figures(one) for one in value] if field.is_repeated else _figures(value)
    return figures


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidReportError(message)
