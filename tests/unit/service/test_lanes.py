"""DispatchService.Attach over a real channel, with a double behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1 import memory_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from admission.core import measured
from admission.core.lanes import Lease, LoadProgress, StartCause, StartFailure, Wish
from admission.core.tasks import FailureCode, LaneMode, Stage, TaskId, TaskState
from admission.engine_types import InvalidReportError, LaneWish, SessionEndedError
from admission.service import convert_lanes
from admission.service.doors import Doors
from admission.service.lanes import DispatchService
from runtime.errors import ServiceError
from runtime.objects import attempt_prefix
from runtime.rpc_errors import service_error
from tests.unit.service.conftest import Stack
from tests.unit.service.double import AT, TASK_ID, ControllerDouble, LaneSessionDouble, a_task, a_wish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Call = grpc.aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse]
PREFIX = attempt_prefix(TASK_ID, 2)
_NO_TIME = timestamp_pb2.Timestamp(seconds=2**60)


def _report(**changes: object) -> pb.LaneReport:
    fields: dict[str, object] = {
        "protocol_version": 1,
        "lane_id": "lane-anisora",
        "boot_id": "boot-1",
        "kind": pb.LANE_KIND_DEDICATED,
        "models": ["anisora"],
        "warm": True,
        "healthy": True,
        "resident_model": "anisora",
    }
    return pb.LaneReport(**(fields | changes))  # type: ignore[arg-type]


def _result(**changes: object) -> generation_pb2.Result:
    fields: dict[str, object] = {
        "video_key": PREFIX + "video.mp4",
        "preview_key": PREFIX + "preview.jpg",
        "media_type": "video/mp4",
        "size_bytes": 10,
        "sha256": "0" * 64,
        "width": 512,
        "height": 512,
        "num_frames": 17,
        "fps": 16,
    }
    return generation_pb2.Result(**(fields | changes))  # type: ignore[arg-type]


def _ended(**end: object) -> pb.Work:
    fields: dict[str, object] = {"memory": generation_pb2.MemoryRecord(device="cpu", host_rss_after_bytes=2**33)} | end
    return pb.Work(task_id=TASK_ID, attempt=2, phase=pb.WORK_PHASE_ENDED, progress=100, outcome=pb.Outcome(**fields))  # type: ignore[arg-type]


async def _attach(stack: Stack, report: pb.LaneReport) -> tuple[Call, LaneSessionDouble]:
    call: Call = DispatchServiceStub(stack.channel).Attach(timeout=30)
    await call.write(pb.AttachRequest(report=report))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)
    return call, stack.controller.sessions[-1]


async def _wish(call: Call) -> pb.DesiredState:
    answer = await call.read()
    assert isinstance(answer, pb.AttachResponse)
    return answer.desired


async def _refusal(call: Call) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return service_error(caught.value)


async def test_report_reaches_the_engine_with_its_session_when_a_lane_attaches(stack: Stack) -> None:
    work = pb.Work(task_id=TASK_ID, attempt=2, phase=pb.WORK_PHASE_INFERENCE, progress=40, detail="step 3 of 8")
    call, session = await _attach(stack, _report(seen_sequence=4, work=work, device="cpu"))

    report = await asyncio.wait_for(session.reports.get(), 5)

    assert (report.session, report.seen_sequence, report.boot_id, report.resident_model) == (1, 4, "boot-1", "anisora")
    assert (report.spec.lane_id, report.spec.mode, report.spec.models, report.spec.device) == (
        "lane-anisora",
        LaneMode.DEDICATED,
        ("anisora",),
        "cpu",
    )
    assert report.work is not None
    assert (report.work.attempt, report.work.stage, report.work.progress, report.work.outcome) == (2, Stage.INFERENCE, 40, None)
    call.cancel()


async def test_wishes_reach_the_lane_in_order(stack: Stack) -> None:
    call, session = await _attach(stack, _report())
    for sequence in (1, 2):
        session.wishes.put_nowait(a_wish(sequence))

    wishes = [await _wish(call), await _wish(call)]

    assert [wish.sequence for wish in wishes] == [1, 2]
    assert {(wish.controller_epoch, wish.report_interval.ToMilliseconds()) for wish in wishes} == {(3, 2000)}
    call.cancel()


async def test_lease_carries_all_that_the_lane_needs(stack: Stack) -> None:
    call, session = await _attach(stack, _report())
    wish = Wish(
        sequence=1,
        lease=Lease(task_id=TASK_ID, attempt=2, placement="streamed", predicted_peak_bytes=2**34),
        acknowledged=Lease(task_id=TASK_ID, attempt=1),
        acknowledged_before=Lease(task_id=TaskId("ab" * 16), attempt=4),
        finishing=Lease(task_id=TaskId("cd" * 16), attempt=5),
        render_deadline_s=900.0,
    )
    task = a_task(TaskState.LEASED, attempt=2, leased_at=AT)
    session.wishes.put_nowait(LaneWish(controller_epoch=3, wish=wish, task=task, report_interval_s=2.0))

    desired = await _wish(call)

    assert (desired.lease.task_id, desired.lease.attempt, desired.lease.artifact_prefix) == (TASK_ID, 2, PREFIX)
    assert (desired.lease.request.prompt, desired.lease.request.steps, desired.lease.request.seed) == ("a lake", 8, 7)
    assert (desired.lease.placement, desired.lease.predicted_peak_bytes) == ("streamed", 2**34)
    assert (desired.lease.render_deadline.seconds, desired.lease.leased_at.ToDatetime()) == (900, AT.replace(tzinfo=None))
    assert (desired.acknowledged.task_id, desired.acknowledged.attempt) == (TASK_ID, 1)
    assert (desired.acknowledged_before.task_id, desired.acknowledged_before.attempt) == ("ab" * 16, 4)
    assert (desired.finishing.task_id, desired.finishing.attempt) == ("cd" * 16, 5)
    call.cancel()


async def test_stream_ends_well_when_the_lane_ends_it(stack: Stack) -> None:
    call, session = await _attach(stack, _report())

    await call.done_writing()

    assert await call.read() is grpc.aio.EOF
    assert session.closed.is_set()
    assert await call.code() is grpc.StatusCode.OK


async def test_session_is_closed_when_the_lane_hangs_up(stack: Stack) -> None:
    call, session = await _attach(stack, _report())

    call.cancel()

    await asyncio.wait_for(session.closed.wait(), 5)


async def test_stream_is_aborted_when_a_newer_one_takes_over(stack: Stack) -> None:
    call, session = await _attach(stack, _report())

    session.wishes.put_nowait(SessionEndedError())

    assert (await _refusal(call)).code == "session_ended"
    assert await call.code() is grpc.StatusCode.ABORTED
    assert session.closed.is_set()


async def test_stream_is_refused_when_the_engine_refuses_the_report(stack: Stack) -> None:
    call, session = await _attach(stack, _report())
    session.refusal = InvalidReportError("lane_id changed")

    await call.write(pb.AttachRequest(report=_report()))

    error = await _refusal(call)
    assert (error.code, await call.code()) == ("invalid_report", grpc.StatusCode.INVALID_ARGUMENT)
    assert "lane_id changed" in error.message


async def test_stream_is_refused_when_the_protocol_version_is_another(stack: Stack) -> None:
    call, session = await _attach(stack, _report(protocol_version=2))

    error = await _refusal(call)

    assert (error.code, error.metadata) == ("protocol_version_unsupported", {"supported": "1"})
    assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert session.reports.empty()


async def test_stream_ends_with_unavailable_when_admission_stops(stack: Stack) -> None:
    call, session = await _attach(stack, _report())

    stack.doors.close()

    assert (await _refusal(call)).code == "service_unavailable"
    await asyncio.wait_for(session.closed.wait(), 5)


async def test_stream_ends_when_the_lane_is_silent() -> None:
    controller, doors = ControllerDouble(), Doors()
    doors.open()

    async def silent() -> AsyncIterator[pb.AttachRequest]:
        await asyncio.Event().wait()
        yield pb.AttachRequest()

    stream = DispatchService(controller=controller, doors=doors, silence_s=0.01).Attach(silent(), None)

    with pytest.raises(ServiceError, match="session_ended"):
        await anext(aiter(stream))
    assert controller.sessions[0].closed.is_set()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lane_id": ""}, "lane_id"),
        ({"lane_id": "Lane"}, "lane_id"),
        ({"boot_id": ""}, "boot_id"),
        ({"kind": pb.LANE_KIND_UNSPECIFIED}, "kind"),
        ({"models": []}, "models"),
        ({"models": ["pony"]}, "models"),
        ({"models": ["anisora", "phr00t"]}, "models of a dedicated lane"),
        ({"kind": pb.LANE_KIND_DEGRADED, "models": ["anisora", "anisora"]}, "models"),
        ({"resident_model": "phr00t"}, "resident_model"),
        ({"seen_sequence": -1}, "seen_sequence"),
        ({"cold_starts": -1}, "cold_starts"),
        ({"load": generation_pb2.LoadProgress(model="phr00t")}, "load.model"),
        ({"load": generation_pb2.LoadProgress(read_bytes=2, total_bytes=1)}, "load.read_bytes"),
        ({"load": generation_pb2.LoadProgress(read_bytes=-1)}, "load.read_bytes"),
        ({"start_failure": generation_pb2.StartFailure()}, "start_failure.attempts"),
        ({"start_failure": generation_pb2.StartFailure(attempts=1, next_attempt_at=_NO_TIME)}, "start_failure.next_attempt_at"),
        ({"work": pb.Work(task_id="a/b", attempt=1, phase=pb.WORK_PHASE_LOADING)}, "work.task_id"),
        ({"work": pb.Work(task_id=TASK_ID, attempt=0, phase=pb.WORK_PHASE_LOADING)}, "work.attempt"),
        ({"work": pb.Work(task_id=TASK_ID, attempt=1)}, "work.phase"),
        ({"work": pb.Work(task_id=TASK_ID, attempt=1, phase=pb.WORK_PHASE_LOADING, progress=101)}, "work.progress"),
        ({"work": pb.Work(task_id=TASK_ID, attempt=1, phase=pb.WORK_PHASE_ENDED)}, "work.outcome"),
        ({"work": pb.Work(task_id=TASK_ID, attempt=1, phase=pb.WORK_PHASE_LOADING, outcome=pb.Outcome())}, "work.outcome"),
        ({"work": _ended()}, "work.outcome"),
        ({"work": _ended(result=_result(), memory=None)}, "work.outcome.memory"),
        ({"work": _ended(result=_result(video_key="results/other/2/video.mp4"))}, "work.outcome.result.video_key"),
        ({"work": _ended(result=_result(preview_key=PREFIX))}, "work.outcome.result.preview_key"),
        ({"work": _ended(result=_result(size_bytes=0))}, "work.outcome.result.size_bytes"),
        ({"work": _ended(failure=generation_pb2.Failure(code="no_such_code"))}, "work.outcome.failure.code"),
        ({"finishing": pb.Work(task_id="a/b", attempt=1, phase=pb.WORK_PHASE_ENCODING)}, "finishing.task_id"),
        ({"finishing": pb.Work(task_id=TASK_ID, attempt=1, phase=pb.WORK_PHASE_ENCODING)}, "finishing.gpu_free"),
        ({"work": _ended(result=_result()), "finishing": _ended(result=_result())}, "finishing"),
        ({"finishing": _ended(result=_result(preview_key=PREFIX))}, "finishing.outcome.result.preview_key"),
    ],
)
def test_report_is_refused_by_field_when_it_makes_no_sense(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidReportError, match=f"^{field} "):
        convert_lanes.report(_report(**changes), 1)


def test_both_places_are_taken_when_a_lane_finishes_one_beside_the_other() -> None:
    work = pb.Work(task_id=TASK_ID, attempt=3, phase=pb.WORK_PHASE_INFERENCE)
    finishing = pb.Work(task_id=TASK_ID, attempt=2, phase=pb.WORK_PHASE_ENCODING, gpu_free=True)

    report = convert_lanes.report(_report(work=work, finishing=finishing), 1)

    assert [(one.attempt, one.gpu_free) for one in report.works] == [(2, True), (3, False)]


def test_load_and_failed_start_are_taken_whole_when_a_lane_is_not_warm() -> None:
    load = generation_pb2.LoadProgress(model="anisora", stage="s" * 300, read_bytes=1, total_bytes=2)
    # A cause of a newer lane is another one here.
    failure = generation_pb2.StartFailure(cause=99, reason="r" * 600, attempts=3)  # type: ignore[arg-type]

    report = convert_lanes.report(_report(load=load, start_failure=failure, object_store_failure="r" * 600), 1)

    assert report.load == LoadProgress(model="anisora", stage="s" * 200, read_bytes=1, total_bytes=2)
    assert report.start_failure == StartFailure(cause=StartCause.OTHER, reason="r" * 500, attempts=3)
    assert report.object_store_failure == "r" * 500


def test_result_is_taken_whole_when_an_attempt_is_done() -> None:
    durations = {
        "render_duration": duration_pb2.Duration(seconds=9),
        "denoise_duration": duration_pb2.Duration(seconds=7, nanos=500_000_000),
    }

    report = convert_lanes.report(_report(work=_ended(result=_result(), **durations)), 1)

    assert report.work is not None
    outcome = report.work.outcome
    assert outcome is not None
    assert outcome.result is not None
    assert (outcome.result.video_key, outcome.result.num_frames) == (PREFIX + "video.mp4", 17)
    assert (outcome.failure, outcome.render_s, outcome.denoise_s) == (None, 9.0, 7.5)
    # Numbers, though the JSON form of protobuf spells 64-bit integers as texts.
    assert outcome.memory.figures == {"device": "cpu", "host_rss_after_bytes": 2**33}


def test_figures_of_phases_are_numbers_when_a_record_has_them() -> None:
    memory = generation_pb2.MemoryRecord(
        placement="streamed",
        phase_peaks=[generation_pb2.PhasePeak(phase="denoise", peak_bytes=2**34)],
        out_of_memory=[generation_pb2.OutOfMemory(phase="decode", placement="resident", peak_bytes=2**33, budget_bytes=2**35)],
        drift_bytes=0,
    )

    report = convert_lanes.report(_report(work=_ended(result=_result(), memory=memory)), 1)

    assert report.work is not None
    assert report.work.outcome is not None
    record = report.work.outcome.memory
    assert record.figures["phase_peaks"] == [{"phase": "denoise", "peak_bytes": 2**34}]
    assert measured.phase_peaks(record) == {"denoise": 2**34}
    assert measured.out_of_memory(record) == (measured.RanOut("resident", "decode", 2**33, 2**35),)
    assert (measured.placement(record), measured.drift_bytes(record)) == ("streamed", 0)


def _worker_memory(**limits: object) -> memory_pb2.WorkerMemory:
    sizes: dict[str, object] = {"gpu": "NVIDIA A10G", "total_bytes": 100, "other_bytes": 10, "margin_bytes": 5, "host_bytes": 1000}
    phase = memory_pb2.PhaseCost(phase="denoise", weights_bytes=7, fixed=-1.5, per_token=2.5, modes=["t2v"])
    ladder = memory_pb2.ModelLadder(
        model="anisora", rungs=[memory_pb2.Rung(placement="resident", phases=[phase], pinned_bytes=3)], text_to_video_weights="pair"
    )
    return memory_pb2.WorkerMemory(limits=memory_pb2.DeviceLimits(**(sizes | limits)), ladders=[ladder])  # type: ignore[arg-type]


def test_memory_of_a_lane_is_read_once_when_it_says_the_same_again() -> None:
    first, second = (convert_lanes.report(_report(memory=_worker_memory()), session).spec.memory for session in (1, 2))

    assert first is second
    assert first is not None
    assert (first.limits.gpu, first.limits.budget_bytes, first.limits.pinned_limit_bytes) == ("NVIDIA A10G", 85, 0)
    assert first.ladders[0].text_to_video_weights == "pair"
    [rung] = first.ladders[0].rungs
    [cost] = rung.phases
    assert (rung.placement, rung.pinned_bytes, cost.phase, cost.weights_bytes, cost.modes) == ("resident", 3, "denoise", 7, ("t2v",))
    assert (cost.activations.fixed, cost.activations.per_token) == (-1.5, 2.5)
    assert convert_lanes.report(_report(), 1).spec.memory is None


@pytest.mark.parametrize("limits", [{"gpu": ""}, {"gpu": "x" * 201}, {"total_bytes": -1}, {"host_bytes": -5}])
def test_report_is_refused_when_its_limits_make_no_sense(limits: dict[str, object]) -> None:
    with pytest.raises(InvalidReportError, match="memory"):
        convert_lanes.report(_report(memory=_worker_memory(**limits)), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_token": float("nan")},
        {"per_pixel": -1.0},
        {"fixed": float("inf")},
        {"weights_bytes": -1},
        {"phase": "unheard-of"},
    ],
)
def test_report_is_refused_when_a_cost_makes_no_sense(wrong: dict[str, object]) -> None:
    memory = _worker_memory()
    memory.ladders[0].rungs[0].phases[0].MergeFrom(memory_pb2.PhaseCost(**wrong))  # type: ignore[arg-type]
    with pytest.raises(InvalidReportError, match="memory"):
        convert_lanes.report(_report(memory=memory), 1)


def test_report_is_refused_when_a_ladder_names_something_twice_or_nothing() -> None:
    twice, rungs, empty = _worker_memory(), _worker_memory(), _worker_memory()
    twice.ladders.append(twice.ladders[0])
    rungs.ladders[0].rungs.append(rungs.ladders[0].rungs[0])
    del empty.ladders[0].rungs[:]
    for memory in (twice, rungs, empty):
        with pytest.raises(InvalidReportError, match="memory"):
            convert_lanes.report(_report(memory=memory), 1)


def test_memory_says_why_when_nothing_was_measured() -> None:
    memory = generation_pb2.MemoryRecord(unmeasured_reason="the process died")
    failure = generation_pb2.Failure(code="render_failed", message="The pipeline failed.")

    report = convert_lanes.report(_report(work=_ended(failure=failure, memory=memory)), 1)

    assert report.work is not None
    outcome = report.work.outcome
    assert outcome is not None
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.memory.unmeasured_reason) == (FailureCode.RENDER_FAILED, "the process died")
    assert (outcome.result, outcome.memory.figures, outcome.denoise_s) == (None, {}, None)
