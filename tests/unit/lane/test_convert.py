"""The lane's report, made from plain values."""

from __future__ import annotations

from datetime import UTC, datetime

from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import dispatch_service_pb2 as pb

from runtime.fit.cost import Activations, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase
from runtime.lane.convert import LaneIdentity, memory_message, report_message, wish_of
from runtime.lane.loading import LoadProgress
from runtime.lane.outcome import Failure, FailureCode, MemoryRecord, Outcome, OutOfMemory, PhasePeak, ResidencyChange, unmeasured
from runtime.lane.start_failure import StartCause, StartFailure
from runtime.lane.state import Attempt, LaneState, Wish, drained, ended, freed, wished
from runtime.lane.work import WorkerStatus
from tests.harness.lane_memory import FakeMemory

IDENTITY = LaneIdentity(lane_id="lane-test", boot_id="boot", is_dedicated=True, models=("anisora",), catalog="m:c")


def test_the_report_says_draining_idle_and_seen_when_a_lease_comes_to_a_draining_lane() -> None:
    # A lease that crosses with SIGTERM. Admission takes exactly this for a lease that was declined and does not count.
    lease = Attempt(task_id="a", number=1)
    state, actions = wished(drained(LaneState()), Wish(stream=2, epoch=1, sequence=7, lease=lease))
    report = report_message(IDENTITY, state, WorkerStatus(warm=True), seen_sequence=state.seen_sequence(2))
    assert actions == ()
    assert report.draining
    assert not report.HasField("work")
    assert report.seen_sequence == 7


def test_the_report_has_both_places_and_a_wish_settles_both() -> None:
    first, second = Attempt(task_id="a", number=1), Attempt(task_id="b", number=2)
    failed = Outcome(memory=unmeasured("test"), failure=Failure(code=FailureCode.RENDER_FAILED, message="It failed."))
    desired = pb.DesiredState(controller_epoch=1, sequence=2, finishing=pb.AttemptReference(task_id="a", attempt=1))
    desired.lease.task_id, desired.lease.attempt = "b", 2
    state = freed(wished(LaneState(), Wish(stream=1, epoch=1, sequence=1, lease=first))[0], first)
    assert report_message(IDENTITY, state, WorkerStatus(), seen_sequence=0).work.gpu_free

    state = ended(wished(state, wish_of(1, desired))[0], first, failed)

    report = report_message(IDENTITY, state, WorkerStatus(), seen_sequence=0)
    assert (report.work.task_id, report.work.gpu_free) == ("b", False)
    assert (report.finishing.task_id, report.finishing.phase) == ("a", pb.WORK_PHASE_ENDED)
    desired.acknowledged.task_id, desired.acknowledged.attempt = "b", 2
    desired.acknowledged_before.task_id, desired.acknowledged_before.attempt = "a", 1
    assert wish_of(1, desired).acknowledged == (first, second)


def test_the_report_has_limits_and_ladders_when_the_process_measured_them() -> None:
    activations = Activations(fixed=1.5, per_token=2.5, per_pixel=3.5, per_frame_pixel=4.5)
    cost = PhaseCost(phase=MemoryPhase.ENCODE, weights_bytes=7, activations=activations, modes=("i2v",))
    ladder = ModelLadder(
        model="anisora", rungs=(Rung(placement="streamed", phases=(cost,), host_bytes=8, pinned_bytes=9),), text_to_video_weights="pair"
    )
    memory = WorkerMemory(limits=FakeMemory(total_bytes=11).limits(), ladders=(ladder,))
    report = report_message(IDENTITY, LaneState(), WorkerStatus(memory=memory), seen_sequence=0)
    assert report.memory.limits.total_bytes == 11
    assert report.memory.ladders[0].text_to_video_weights == "pair"
    (rung,) = report.memory.ladders[0].rungs
    (phase,) = rung.phases
    assert (rung.placement, rung.host_bytes, rung.pinned_bytes) == ("streamed", 8, 9)
    assert (phase.phase, phase.weights_bytes, list(phase.modes)) == ("encode", 7, ["i2v"])
    assert (phase.fixed, phase.per_token, phase.per_pixel, phase.per_frame_pixel) == (1.5, 2.5, 3.5, 4.5)


def test_the_report_has_no_memory_when_nothing_was_measured_yet() -> None:
    assert not report_message(IDENTITY, LaneState(), WorkerStatus(), seen_sequence=0).HasField("memory")


def test_the_report_says_how_far_the_load_is_and_why_the_last_start_failed() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    status = WorkerStatus(
        load=LoadProgress(model="anisora", stage="loading the VAE", read_bytes=3, total_bytes=4),
        failure=StartFailure(cause=StartCause.HOST_MEMORY, reason="no memory", attempts=2, next_attempt_at=at),
    )
    report = report_message(IDENTITY, LaneState(), status, seen_sequence=0)
    assert (report.load.model, report.load.stage, report.load.read_bytes, report.load.total_bytes) == ("anisora", "loading the VAE", 3, 4)
    assert report.start_failure.cause == generation_pb2.START_FAILURE_CAUSE_HOST_MEMORY
    assert (report.start_failure.reason, report.start_failure.attempts) == ("no memory", 2)
    assert report.start_failure.next_attempt_at.ToDatetime(UTC) == at
    waiting = report_message(IDENTITY, LaneState(), WorkerStatus(object_store_failure="no route"), seen_sequence=0)
    assert waiting.object_store_failure == "no route"
    quiet = report_message(IDENTITY, LaneState(), WorkerStatus(), seen_sequence=0)
    assert quiet.object_store_failure == ""
    assert not quiet.HasField("load")
    assert not quiet.HasField("start_failure")


def test_a_record_tells_everything_when_it_becomes_a_message() -> None:
    record = MemoryRecord(
        measured_at=unmeasured("").measured_at,
        placement="streamed",
        predicted_peak_bytes=10,
        phase_peaks=(PhasePeak(phase="text", peak_bytes=5), PhasePeak(phase="denoise", peak_bytes=9)),
        out_of_memory=(OutOfMemory(phase="denoise", placement="resident"),),
        drift_bytes=0,
        text_to_video_weights="pair",
        residency_change=ResidencyChange(loaded_model="phr00t", loaded_bytes=1, load_s=0.5, from_host=True),
    )
    message = memory_message(record)
    assert (message.placement, message.predicted_peak_bytes) == ("streamed", 10)
    assert [(one.phase, one.peak_bytes) for one in message.phase_peaks] == [("text", 5), ("denoise", 9)]
    assert [(one.phase, one.placement) for one in message.out_of_memory] == [("denoise", "resident")]
    assert message.text_to_video_weights == "pair"
    # 0 is a figure, and not the same as none.
    assert message.HasField("drift_bytes")
    assert not memory_message(unmeasured("x")).HasField("drift_bytes")
    assert message.residency_change.from_host
