"""What a lane tells of its attempts, its memory and its pipeline process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from runtime.fit.cost import DeviceLimits, WorkerMemory
from runtime.lane.metrics import catalogue
from runtime.lane.metrics.attempts import AttemptMetrics
from runtime.lane.metrics.catalogue import LaneLabels
from runtime.lane.metrics.state import LaneCollector
from runtime.lane.outcome import (
    Failure,
    FailureCode,
    MemoryRecord,
    Outcome,
    OutOfMemory,
    PhasePeak,
    ResidencyChange,
    StoredVideo,
    unmeasured,
)
from runtime.lane.state import Attempt
from runtime.lane.work import WorkerStatus
from runtime.metrics.registry import Registry
from tests.harness.metrics import Page, page_of

LABELS = LaneLabels("degraded-pool", "degraded_shared")
ATTEMPT = Attempt(task_id="0" * 32, number=1)
RECORD = MemoryRecord(
    measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    device="cuda:0",
    allocated_bytes=11,
    reserved_bytes=12,
    peak_allocated_bytes=13,
    peak_reserved_bytes=14,
    driver_free_bytes=15,
    host_rss_before_bytes=16,
    host_rss_after_bytes=17,
    host_rss_peak_bytes=18,
    pinned_bytes=19,
    cleanup_s=0.02,
    placement="streamed",
    predicted_peak_bytes=1000,
    phase_peaks=(PhasePeak(phase="text", peak_bytes=400), PhasePeak(phase="denoise", peak_bytes=980)),
    drift_bytes=20,
)
# 17 frames of 256x320: (16/4 + 1) * 16 * 20 = 1600 tokens.
VIDEO = StoredVideo(
    video_key="results/some-task/1/video.mp4",
    media_type="video/mp4",
    size_bytes=1,
    sha256="0" * 64,
    preview_key="results/some-task/1/preview.jpg",
    width=320,
    height=256,
    num_frames=17,
    fps=16,
)
DONE = Outcome(memory=RECORD, result=VIDEO, render_s=40.0, denoise_s=32.0)


class Time:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Counted:
    """Metrics of a pool, and a page of them."""

    def __init__(self) -> None:
        self.registry, self.time = Registry("degraded-pool"), Time()
        self.metrics = AttemptMetrics(self.registry, LABELS, ("anisora", "phr00t"), clock=self.time)

    def page(self) -> Page:
        return page_of(self.registry)


@pytest.fixture
def counted() -> Counted:
    """Nothing has happened yet."""
    return Counted()


def test_what_was_made_is_counted_when_an_attempt_is_done(counted: Counted) -> None:
    counted.metrics.attempt_ended(ATTEMPT, "anisora", 8, DONE)
    page = counted.page()
    assert page.value("lane_attempts_total", model="anisora", code="done", lane="degraded-pool", lane_mode="degraded_shared") == 1
    assert page.value("lane_frames_total", model="anisora") == 17
    assert page.value("lane_latent_tokens_total", model="anisora") == 1600
    assert page.value("lane_render_seconds_sum", model="anisora") == 40
    # 32 s in 8 steps.
    assert page.value("lane_step_seconds_sum", model="anisora") == 4
    assert page.value("lane_attempt_placements_total", model="anisora", placement="streamed") == 1
    assert page.value("lane_cleanup_seconds_sum") == 0.02


def test_every_figure_of_the_record_is_told_when_it_was_measured(counted: Counted) -> None:
    counted.metrics.attempt_ended(ATTEMPT, "anisora", 8, DONE)
    page = counted.page()
    told = {name: page.value(f"lane_{name}_bytes") for name in ("allocated", "reserved", "peak_allocated", "peak_reserved", "driver_free")}
    assert told == {"allocated": 11, "reserved": 12, "peak_allocated": 13, "peak_reserved": 14, "driver_free": 15}
    host = ("pinned_bytes", "host_resident_memory_bytes", "host_resident_memory_peak_bytes", "drift_bytes")
    assert [page.value(f"lane_{name}") for name in host] == [19, 17, 18, 20]
    assert page.value("lane_predicted_peak_bytes", model="anisora", placement="streamed") == 1000
    assert page.value("lane_measured_peak_bytes", model="anisora", placement="streamed") == 980
    # 980 of 1000: above 0.975, at most 1.
    assert page.value("lane_peak_ratio_bucket", model="anisora", le="0.975") == 0
    assert page.value("lane_peak_ratio_bucket", model="anisora", le="1.0") == 1


def test_only_the_last_attempt_is_told_when_the_pool_changed_its_model(counted: Counted) -> None:
    counted.metrics.attempt_ended(ATTEMPT, "anisora", 8, DONE)
    counted.metrics.attempt_ended(ATTEMPT, "phr00t", 4, replace(DONE, memory=replace(RECORD, allocated_bytes=21, placement="resident")))
    page = counted.page()
    assert page.value("lane_allocated_bytes") == 21
    assert page.value("lane_measured_peak_bytes", model="phr00t", placement="resident") == 980
    assert page.value("lane_measured_peak_bytes", model="anisora") is None


def test_figures_stay_those_of_the_last_measured_one_when_an_attempt_left_none(counted: Counted) -> None:
    counted.metrics.attempt_ended(ATTEMPT, "anisora", 8, DONE)
    lost = Failure(code=FailureCode.LANE_LOST, message="Lost.")
    counted.metrics.attempt_ended(ATTEMPT, "anisora", 8, Outcome(memory=unmeasured("it died"), failure=lost))
    page = counted.page()
    assert page.value("lane_allocated_bytes") == 11
    assert page.value("lane_attempts_total", model="anisora", code="lane_lost") == 1


def test_figures_are_absent_when_the_device_cannot_tell(counted: Counted) -> None:
    assert counted.page().value("lane_residue_bytes") is None
    counted.metrics.attempt_ended(
        ATTEMPT, "anisora", 8, replace(DONE, memory=MemoryRecord(measured_at=RECORD.measured_at, host_rss_after_bytes=17))
    )
    page = counted.page()
    assert page.value("lane_host_resident_memory_bytes") == 17
    assert [page.value(name) for name in ("lane_allocated_bytes", "lane_driver_free_bytes", "lane_predicted_peak_bytes")] == [None] * 3
    assert page.total("lane_peak_ratio_count") == 0


def test_memory_that_ran_out_is_counted_by_phase_when_the_second_try_did_it(counted: Counted) -> None:
    assert counted.page().value("lane_out_of_memory_total", model="anisora", phase="decode") == 0
    ran_out = (OutOfMemory(phase="denoise", placement="resident"), OutOfMemory(phase="decode", placement="streamed"))
    counted.metrics.attempt_ended(ATTEMPT, "anisora", 8, replace(DONE, memory=replace(RECORD, out_of_memory=ran_out)))
    page = counted.page()
    assert page.value("lane_out_of_memory_total", model="anisora", phase="denoise") == 1
    assert page.value("lane_out_of_memory_total", model="anisora", phase="decode") == 1
    assert page.total("lane_out_of_memory_total") == 2


@pytest.mark.parametrize("code", FailureCode)
def test_nothing_was_made_when_an_attempt_fails(counted: Counted, code: FailureCode) -> None:
    counted.metrics.attempt_ended(ATTEMPT, "phr00t", 4, Outcome(memory=RECORD, failure=Failure(code=code, message="No.")))
    page = counted.page()
    assert page.value("lane_attempts_total", model="phr00t", code=code) == 1
    assert page.total("lane_attempts_total") == 1
    assert page.total("lane_frames_total") == page.total("lane_step_seconds_count") == 0


@pytest.mark.parametrize(
    ("change", "reason", "source"),
    [
        (ResidencyChange(loaded_model="phr00t", loaded_bytes=50, load_s=3.0), "nothing_resident", "disk"),
        (
            ResidencyChange(
                loaded_model="phr00t",
                loaded_bytes=50,
                load_s=3.0,
                released_model="anisora",
                released_bytes=40,
                release_s=2.0,
                from_host=True,
            ),
            "other_resident",
            "host",
        ),
        (
            ResidencyChange(
                loaded_model="phr00t",
                loaded_bytes=50,
                load_s=3.0,
                released_model="anisora",
                released_bytes=40,
                residue_bytes=7,
                release_s=2.0,
                process_replaced=True,
            ),
            "process_replaced",
            "disk",
        ),
    ],
)
def test_switch_is_counted_with_its_reason_when_one_preceded_the_attempt(
    counted: Counted, change: ResidencyChange, reason: str, source: str
) -> None:
    counted.metrics.attempt_ended(ATTEMPT, "phr00t", 4, replace(DONE, memory=replace(RECORD, residency_change=change)))
    page = counted.page()
    assert page.value("lane_switches_total", model="phr00t", reason=reason) == 1
    assert page.total("lane_switches_total") == 1
    assert page.value("lane_switch_load_seconds_sum", model="phr00t", source=source) == 3
    assert page.value("lane_switch_loaded_bytes_total", model="phr00t") == 50
    has_released = bool(change.released_model)
    assert page.total("lane_switch_release_seconds_sum") == (2 if has_released else 0)
    assert page.total("lane_switch_released_bytes_total") == (40 if has_released else 0)
    assert page.value("lane_residue_bytes") == change.residue_bytes


def test_residue_stays_when_the_next_attempt_needs_no_switch(counted: Counted) -> None:
    change = ResidencyChange(loaded_model="phr00t", loaded_bytes=50, load_s=3.0, residue_bytes=7)
    counted.metrics.attempt_ended(ATTEMPT, "phr00t", 4, replace(DONE, memory=replace(RECORD, residency_change=change)))
    counted.metrics.attempt_ended(ATTEMPT, "phr00t", 4, DONE)
    assert counted.page().value("lane_residue_bytes") == 7


def test_model_is_unknown_when_the_lane_does_not_have_it(counted: Counted) -> None:
    refused = Failure(code=FailureCode.RENDER_FAILED, message="No.")
    for number in range(3):
        counted.metrics.attempt_ended(ATTEMPT, f"made up {number}", 0, Outcome(memory=unmeasured("nothing ran"), failure=refused))
    page = counted.page()
    assert page.value("lane_attempts_total", model="unknown", code="render_failed") == 3
    assert "made up" not in page.text


def test_cold_start_is_timed_from_the_process_to_warm_when_it_takes_two_processes(counted: Counted) -> None:
    status = WorkerStatus(cold_starts=1)
    counted.metrics.status_changed(status)
    counted.time.now_s = 10.0
    # The first process died while it loaded.
    counted.metrics.status_changed(replace(status, cold_starts=2))
    counted.time.now_s = 14.0
    counted.metrics.status_changed(replace(status, cold_starts=2, warm=True))
    counted.time.now_s = 20.0
    counted.metrics.status_changed(replace(status, cold_starts=2, warm=True, resident_model="anisora"))
    page = counted.page()
    assert page.value("lane_cold_start_seconds_count") == 1
    assert page.value("lane_cold_start_seconds_sum") == 4


@dataclass
class Agent:
    """An agent as far as it is read."""

    status: WorkerStatus
    is_attached: bool = False
    is_drained: bool = False


def test_state_is_read_when_it_is_asked_for() -> None:
    registry, agent = Registry("degraded-pool"), Agent(WorkerStatus())
    registry.register(LaneCollector(agent, LABELS))
    before = page_of(registry)
    assert [before.value(f"lane_{name}") for name in ("warm", "healthy", "attached", "drained")] == [0, 1, 0, 0]
    assert before.value("lane_resident_model_info") is None
    assert before.value("lane_device_memory_bytes", part="total") is None

    limits = DeviceLimits(gpu="cpu", total_bytes=100, other_bytes=10, margin_bytes=5, host_bytes=1000, pinned_limit_bytes=750)
    agent.status = WorkerStatus(
        warm=True, healthy=False, resident_model="phr00t", cold_starts=2, memory=WorkerMemory(limits=limits, ladders=())
    )
    agent.is_attached = agent.is_drained = True
    page = page_of(registry)
    assert [page.value(f"lane_{name}") for name in ("warm", "healthy", "attached", "drained")] == [1, 0, 1, 1]
    assert page.value("lane_resident_model_info", model="phr00t") == 1
    assert page.value("lane_cold_starts_total") == 2
    assert [page.value("lane_device_memory_bytes", part=part) for part in ("total", "other", "margin")] == [100, 10, 5]
    assert page.value("lane_pinned_limit_bytes") == 750


def test_every_metric_of_the_catalogue_is_there_when_a_lane_has_rendered(counted: Counted) -> None:
    counted.registry.register(LaneCollector(Agent(WorkerStatus()), LABELS))
    page = counted.page()
    assert {one.name.removesuffix("_total") for one in catalogue.ALL} <= set(page.families)
    assert "some-task" not in page.text
