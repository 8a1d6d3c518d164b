"""A clip is finished beside the next render: the lane's agent with a real pipeline process; admission is a double, the model is numpy.

A file in the place of the results' folder keeps the object store from taking anything: what is being finished stays so until it is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from warmlane.lane.v1 import dispatch_service_pb2 as pb

from tests.harness.running_lane import ROOT, Lane, holds, lease, running_lane

A = lease("renders", task="a")


@pytest.fixture(autouse=True)
def _children_find_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("WARMLANE_LOG_LEVEL", "error")


class Store:
    """The object store of a lane."""

    def __init__(self, lane: Lane) -> None:
        """It takes what it is given."""
        self._results = lane.objects / "results"

    def refuses(self) -> None:
        """It takes nothing."""
        self._results.parent.mkdir(exist_ok=True)
        self._results.touch()

    def takes(self) -> None:
        """It is back."""
        self._results.unlink()


async def finishing_beside(lane: Lane, following: pb.Lease) -> Store:
    """The lane finishes A, which the store does not take, and begins the other."""
    await lane.ready()
    store = Store(lane)
    store.refuses()
    lane.admission.wish(A)
    await lane.admission.until_gpu_free("a")
    lane.admission.wish(following, finishing=A)
    await lane.admission.until(lambda report: report.work.task_id == following.task_id and report.finishing.task_id == "a")
    return store


async def test_second_attempt_steps_before_the_first_ends_when_its_files_are_still_being_stored(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        store = await finishing_beside(lane, lease("takes 0.5", task="b"))
        stepping = await lane.admission.until(lambda report: report.work.detail.startswith("step 1 of 4"))
        assert stepping.finishing.phase == pb.WORK_PHASE_ENCODING
        assert stepping.finishing.gpu_free
        await lane.admission.until_gpu_free("b")
        ends = asyncio.gather(lane.admission.until_ended("a"), lane.admission.until_ended("b"))
        store.takes()
        first, second = await ends
        await lane.admission.until(lambda report: not report.HasField("work") and not report.HasField("finishing"))
    assert second.result.video_key == "results/b/1/video.mp4"
    assert first.result.video_key == "results/a/1/video.mp4"


async def test_nothing_overlaps_when_the_lane_was_told_so(tmp_path: Path) -> None:
    async with running_lane(tmp_path, overlap=False) as lane:
        await lane.ready()
        lane.admission.wish(A)
        await lane.admission.until_ended("a")
    assert not any(report.work.gpu_free for report in lane.admission.reports if report.work.phase != pb.WORK_PHASE_ENDED)


async def test_first_keeps_its_record_and_both_are_lost_when_the_process_dies(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await finishing_beside(lane, lease("steps", task="b"))
        os.kill(lane.agent.status.pid, signal.SIGKILL)
        report = await lane.admission.until(lambda report: report.work.phase == report.finishing.phase == pb.WORK_PHASE_ENDED)
    first, second = report.finishing.outcome, report.work.outcome
    assert (first.failure.code, second.failure.code) == ("lane_lost", "lane_lost")
    assert (first.memory.placement, first.memory.unmeasured_reason) == ("resident_all", "")
    assert "SIGKILL" in second.memory.unmeasured_reason


async def test_render_goes_on_when_what_is_finished_beside_it_is_cancelled(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        following = lease("waits", task="b")
        store = await finishing_beside(lane, following)
        lane.admission.wish(following)
        first = await lane.admission.until_ended("a")
        store.takes()
        (lane.models / "go").touch()
        second = await lane.admission.until_ended("b")
    assert first.failure.code == "cancelled"
    assert first.memory.placement == "resident_all"
    assert second.HasField("result")


async def test_what_is_finished_goes_on_when_the_render_beside_it_is_cancelled(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        store = await finishing_beside(lane, lease("steps", task="b"))
        lane.admission.wish(None, finishing=A)
        second = await lane.admission.until_ended("b")
        store.takes()
        first = await lane.admission.until_ended("a")
    assert second.failure.code == "cancelled"
    assert first.HasField("result")


async def test_process_stays_for_what_is_finished_when_it_must_be_replaced(tmp_path: Path) -> None:
    leaking = lease("leaks", task="a")
    async with running_lane(tmp_path, dedicated=False) as lane:
        await lane.ready()
        store = Store(lane)
        store.refuses()
        lane.admission.wish(leaking)
        await lane.admission.until_gpu_free("a")
        pid = lane.agent.status.pid
        # Its memory does not come back when the other model is to be loaded.
        lane.admission.wish(lease("renders", task="b", model="phr00t"), finishing=leaking)
        await lane.admission.until(lambda report: report.work.task_id == "b" and not report.resident_model)
        assert lane.agent.status.pid == pid
        ends = asyncio.gather(lane.admission.until_ended("a"), lane.admission.until_ended("b"))
        store.takes()
        first, second = await ends
        await holds(lambda: lane.agent.status.pid not in (0, pid))
    assert first.HasField("result")
    assert second.HasField("result")
    assert second.memory.residency_change.process_replaced


async def test_both_end_when_the_lane_is_stopped(tmp_path: Path) -> None:
    async with running_lane(tmp_path) as lane:
        await finishing_beside(lane, lease("steps", task="b"))
        await lane.agent.drain(0.1)
        await lane.running
    ends = {
        work.task_id: work.outcome.failure.code
        for report in lane.admission.reports
        for work in (report.work, report.finishing)
        if work.phase == pb.WORK_PHASE_ENDED
    }
    assert ends == {"a": "cancelled", "b": "cancelled"}
