"""The lane's agent with a real pipeline process, real streams and a real object store; admission is a double, the model is numpy."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av
import psutil
import pytest
import pytest_asyncio
import structlog.testing
from warmlane.lane.v1 import dispatch_service_pb2 as pb

from tests.harness.running_lane import Lane, holds, lease, running_lane

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _children_find_the_harness() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("WARMLANE_LOG_LEVEL", "warning")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_lane(tmp_path_factory: pytest.TempPathFactory, _children_find_the_harness: None) -> AsyncIterator[Lane]:
    """A dedicated lane of those tests that leave its process alive and idle; each has tasks of its own."""
    async with running_lane(tmp_path_factory.mktemp("shared")) as lane:
        await lane.ready()
        yield lane
    assert lane.agent.status.cold_starts == 1


shares_the_lane = pytest.mark.asyncio(loop_scope="module")


def is_idle(report: pb.LaneReport) -> bool:
    """The lane has nothing to do or to tell."""
    return not report.HasField("work")


@shares_the_lane
async def test_files_are_stored_and_the_outcome_is_reported_when_a_lease_is_rendered(shared_lane: Lane) -> None:
    lane = shared_lane
    lane.admission.wish(lease("renders", task="stored"))
    outcome = await lane.admission.until_ended("stored")
    await lane.admission.until(is_idle)
    video = lane.objects / outcome.result.video_key
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
        assert container.streams.video[0].average_rate == 8
    assert outcome.result.video_key == "results/stored/1/video.mp4"
    assert outcome.result.size_bytes == video.stat().st_size
    assert (lane.objects / outcome.result.preview_key).read_bytes().startswith(b"\xff\xd8\xff")
    assert outcome.memory.unmeasured_reason == ""
    assert outcome.memory.host_rss_after_bytes > 0
    assert outcome.memory.placement == "resident_all"
    assert outcome.render_duration.ToMicroseconds() > 0
    progress = [report.work.progress for report in lane.admission.reports if report.work.task_id == "stored"]
    assert progress == sorted(progress)
    assert progress[-1] == 100


async def test_limits_and_ladders_are_reported_when_the_process_is_up(tmp_path: Path) -> None:
    async with running_lane(tmp_path, dedicated=False) as lane:
        report = await lane.admission.until(lambda report: report.HasField("memory"))
    assert report.memory.limits.gpu == "cpu"
    assert report.memory.limits.total_bytes > 0
    assert [ladder.model for ladder in report.memory.ladders] == ["anisora", "phr00t"]
    assert report.memory.ladders[0].rungs[0].placement == "resident_all"


async def test_the_ordered_placement_is_used_and_recorded_when_the_lease_names_one(tmp_path: Path) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        async with running_lane(tmp_path) as lane:
            await lane.ready()
            ordered = lease("renders")
            ordered.placement, ordered.predicted_peak_bytes = "streamed", 5000
            lane.admission.wish(ordered)
            outcome = await lane.admission.until_ended("a")
    assert (outcome.memory.placement, outcome.memory.predicted_peak_bytes) == ("streamed", 5000)
    (line,) = [line for line in lines if line["event"] == "memory_record"]
    assert (line["placement"], line["drift_bytes"], line["task"], line["model"]) == ("streamed", 0, "a", "anisora")


@shares_the_lane
async def test_the_same_request_gives_the_same_bytes_when_rendered_twice(shared_lane: Lane) -> None:
    checksums = []
    for task, seed in (("one", 1), ("same", 1), ("other", 2)):
        shared_lane.admission.wish(lease("renders", task=task, seed=seed))
        checksums.append((await shared_lane.admission.until_ended(task)).result.sha256)
        await shared_lane.admission.until(is_idle)
    assert checksums[0] == checksums[1] != checksums[2]


@shares_the_lane
async def test_the_render_ends_between_steps_when_the_lease_is_withdrawn(shared_lane: Lane) -> None:
    lane = shared_lane
    lane.admission.wish(lease("steps", task="withdrawn"))
    await lane.admission.until(lambda report: report.work.progress >= 45)
    pid = lane.agent.status.pid
    lane.admission.wish(None)
    outcome = await lane.admission.until_ended("withdrawn")
    await lane.admission.until(is_idle)
    assert outcome.failure.code == "cancelled"
    assert outcome.memory.unmeasured_reason == ""
    assert lane.agent.status.pid == pid


@shares_the_lane
async def test_the_lane_stays_usable_and_the_message_safe_when_the_pipeline_raises(shared_lane: Lane) -> None:
    lane = shared_lane
    lane.admission.wish(lease("raises", task="raised"))
    outcome = await lane.admission.until_ended("raised")
    await lane.admission.until(is_idle)
    lane.admission.wish(lease("renders", task="after"))
    assert (await lane.admission.until_ended("after")).HasField("result")
    await lane.admission.until(is_idle)
    assert outcome.failure.code == "render_failed"
    assert outcome.failure.message == "The pipeline failed (RuntimeError)."
    assert outcome.memory.unmeasured_reason == ""
    assert lane.agent.status.cold_starts == 1


@pytest.mark.parametrize("prompt", ["hangs", "deaf"])
async def test_the_process_is_killed_when_it_ignores_the_deadline(tmp_path: Path, prompt: str) -> None:
    async with running_lane(tmp_path, cancel_grace_s=0.3) as lane:
        await lane.ready()
        lane.admission.wish(lease(prompt, deadline_s=1))
        outcome = await lane.admission.until_ended("a")
        await lane.admission.until(lambda report: report.warm and report.cold_starts == 2)
    assert outcome.failure.code == "deadline_exceeded"
    assert "killed" in outcome.memory.unmeasured_reason


async def test_the_process_is_killed_when_it_hangs_before_its_first_step_and_the_lease_is_withdrawn(tmp_path: Path) -> None:
    # It passed for a load, and an unwanted load was never killed: the lane reported work for ever.
    async with running_lane(tmp_path, cancel_grace_s=0.3) as lane:
        await lane.ready()
        lane.admission.wish(lease("hangs at once"))
        await lane.admission.until(lambda report: report.work.phase == pb.WORK_PHASE_INFERENCE)
        lane.admission.wish(None)
        outcome = await lane.admission.until_ended("a")
        await lane.admission.until(lambda report: report.warm and report.cold_starts == 2)
    assert outcome.failure.code == "cancelled"
    assert "killed" in outcome.memory.unmeasured_reason


async def test_the_attempt_is_lost_and_a_fresh_process_serves_when_the_process_dies(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.wish(lease("kills itself"))
        outcome = await lane.admission.until_ended("a")
        await lane.admission.until(lambda report: report.warm and report.cold_starts == 2)
        lane.admission.wish(lease("renders", task="b"))
        assert (await lane.admission.until_ended("b")).HasField("result")
    assert outcome.failure.code == "lane_lost"
    assert "signal 9, SIGKILL" in outcome.memory.unmeasured_reason


async def test_the_render_goes_on_when_admission_restarts(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.wish(lease("waits"))
        await lane.admission.until(lambda report: report.work.progress > 0)
        await lane.admission.stop()
        lane.admission.epoch += 1
        await lane.admission.start()
        report = await lane.admission.until(lambda report: report.seen_sequence > 0)
        assert report.work.task_id == "a"
        (lane.models / "go").touch()
        assert (await lane.admission.until_ended("a")).HasField("result")
    assert lane.agent.epoch == 2
    assert lane.agent.status.cold_starts == 1


async def test_the_outcome_is_repeated_when_admission_was_away_at_the_end(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.wish(lease("waits"))
        await lane.admission.until(lambda report: report.work.progress > 0)
        await lane.admission.stop()
        (lane.models / "go").touch()
        await holds(lambda: bool(lane.agent.memory_records))
        await lane.admission.start()
        assert (await lane.admission.until_ended("a")).HasField("result")
        await lane.admission.until(is_idle)


async def test_the_outcome_is_repeated_until_it_is_acknowledged_when_admission_is_silent(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.acknowledges = False
        lane.admission.wish(lease("renders"))
        for _ in range(3):
            assert (await lane.admission.until_ended("a")).HasField("result")
        lane.admission.acknowledges = True
        await lane.admission.until(is_idle)


async def test_the_render_is_not_disturbed_when_streams_are_recycled(tmp_path: Path) -> None:
    async with running_lane(tmp_path, stream_life_s=0.3) as lane:
        await lane.ready()
        lane.admission.wish(lease("waits"))
        await lane.admission.until(lambda report: report.work.progress > 0)
        streams = lane.admission.streams
        await holds(lambda: lane.admission.streams >= streams + 4)
        (lane.models / "go").touch()
        assert (await lane.admission.until_ended("a")).HasField("result")
    assert lane.agent.status.cold_starts == 1
    worked = [index for index, report in enumerate(lane.admission.reports) if report.work.task_id == "a"]
    assert worked == list(range(worked[0], worked[-1] + 1))


async def test_reports_keep_coming_when_the_process_is_busy(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.wish(lease("hangs"))
        await lane.admission.until(lambda report: report.work.progress > 0)
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        for _ in range(5):
            await lane.admission.until(lambda report: report.work.task_id == "a")
        # Five intervals of 0.2 s, and room for a busy machine.
        assert loop.time() - started_s < 5


async def test_the_other_model_is_released_first_when_the_pool_switches(tmp_path: Path) -> None:
    async with running_lane(tmp_path, dedicated=False) as lane:
        await lane.ready()
        lane.admission.wish(lease("renders", task="a"))
        first = await lane.admission.until_ended("a")
        await lane.admission.until(is_idle)
        lane.admission.wish(lease("renders", task="b", model="phr00t"))
        second = await lane.admission.until_ended("b")
    assert first.memory.residency_change.loaded_model == "anisora"
    assert first.memory.residency_change.released_model == ""
    assert second.memory.residency_change.released_model == "anisora"
    assert second.memory.residency_change.loaded_model == "phr00t"
    assert second.memory.residency_change.released_bytes == 1000
    assert not second.memory.residency_change.process_replaced


async def test_the_process_is_replaced_and_the_attempt_served_when_memory_does_not_come_back(tmp_path: Path) -> None:
    async with running_lane(tmp_path, dedicated=False) as lane:
        await lane.ready()
        lane.admission.wish(lease("leaks", task="a"))
        await lane.admission.until_ended("a")
        await lane.admission.until(is_idle)
        lane.admission.wish(lease("renders", task="b", model="phr00t"))
        outcome = await lane.admission.until_ended("b")
    assert outcome.HasField("result")
    assert outcome.memory.residency_change.process_replaced
    assert outcome.memory.residency_change.released_model == "anisora"
    assert lane.agent.status.cold_starts == 2


@shares_the_lane
async def test_the_request_is_refused_when_it_breaks_the_rules(shared_lane: Lane) -> None:
    wrong = lease("renders", task="wrong")
    wrong.request.steps = 5
    shared_lane.admission.wish(wrong)
    outcome = await shared_lane.admission.until_ended("wrong")
    await shared_lane.admission.until(is_idle)
    assert outcome.failure.code == "render_failed"
    assert "steps" in outcome.failure.message
    assert outcome.memory.unmeasured_reason


async def test_the_reason_is_reported_when_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        (lane.models / "broken").touch()
        os.kill(lane.agent.status.pid, signal.SIGKILL)
        report = await lane.admission.until(lambda report: "the weights are broken" in report.reason)
        assert not report.warm
        (lane.models / "broken").unlink()
        await lane.admission.until(lambda report: report.warm)


async def test_the_attempt_ends_and_the_process_too_when_the_lane_drains(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.wish(lease("steps"))
        await lane.admission.until(lambda report: report.work.progress > 0)
        pid = lane.agent.status.pid
        await lane.agent.drain(0.2)
        await lane.running
        assert not psutil.pid_exists(pid)
    ended = [report for report in lane.admission.reports if report.work.phase == pb.WORK_PHASE_ENDED]
    assert ended[0].draining
    assert ended[0].work.outcome.failure.code == "cancelled"


async def test_the_lease_is_seen_and_declined_when_it_comes_while_the_lane_drains(tmp_path: Path) -> None:
    # Admission takes exactly this report (draining, no work, the wish seen) for a lease that was declined and does not count.
    async with running_lane(tmp_path) as lane:
        await lane.ready()
        lane.admission.wish(lease("steps"))
        await lane.admission.until(lambda report: report.work.progress > 0)
        draining = asyncio.create_task(lane.agent.drain(30), name="drain")
        await lane.admission.until(lambda report: report.draining)
        lane.admission.wish(lease("renders", task="b"))
        report = await lane.admission.until(is_idle)
        await draining
        await lane.running
    assert report.draining
    assert report.seen_sequence == lane.admission.sequence
    assert not any(report.work.task_id == "b" for report in lane.admission.reports)


async def test_no_temporary_files_are_left_when_processes_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A killed process left the folder of its attempt for ever, with half a video in it.
    temporary = tmp_path / "temporary"
    abandoned = temporary / f"warmlane.lane-test.{max(psutil.pids()) + 100_000_000}.x"
    abandoned.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with running_lane(tmp_path, cancel_grace_s=0.3) as lane:
        await lane.ready()
        lane.admission.wish(lease("writes"))
        await holds(lambda: len(list(temporary.rglob("half.mp4"))) == 1)
        lane.admission.wish(None)
        await lane.admission.until_ended("a")
        await lane.admission.until(lambda report: report.warm and report.cold_starts == 2)
        assert len(list(temporary.iterdir())) == 1
        assert list(temporary.rglob("half.mp4")) == []
    assert list(temporary.iterdir()) == []
