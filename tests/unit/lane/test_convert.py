"""The lane's report, made from plain values."""

from __future__ import annotations

from runtime.lane.convert import LaneIdentity, report_message
from runtime.lane.state import Attempt, LaneState, Wish, drained, wished
from runtime.lane.worker import WorkerStatus

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
