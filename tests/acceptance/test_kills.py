"""kill -9 of any one process while a clip renders: after `up` restarted it, the clip still gets done, once."""

from __future__ import annotations

import os
import signal
import time

import grpc
import httpx
import psutil
import pytest
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from tests.harness.http import Frontend
from tests.harness.stack import Stack
from tests.harness.video import decode

# Long enough on two cores to be killed in the middle of it.
_CLIP = {"model": "anisora", "prompt": "a train through hills", "width": 288, "height": 288, "num_frames": 33, "seed": 5}


def _rendering(frontend: Frontend) -> str:
    task_id = frontend.generate(**_CLIP)
    frontend.wait_for_stage(task_id, "inference")
    return task_id


def _is_done_once(stack: Stack, frontend: Frontend, task_id: str) -> dict[str, object]:
    status = frontend.wait(task_id)
    assert status["status"] == "done", (status, stack.tails())
    assert decode(frontend.result(task_id)).frames == 33
    files = sorted(path.parent.name for path in (stack.data_dir / "objects" / "results" / task_id).rglob("video.mp4"))
    assert files == [str(status["attempt"])], "the files of the attempt that was committed, and no others"
    events = [event["event_type"] for event in status["diagnostics"]["events"]]
    assert events.count("attempt_ended") == 1
    assert events.count("memory_record") == status["attempt"]
    return status


@pytest.mark.parametrize("process", ["admission", "http-bridge", pytest.param("degraded-pool", marks=pytest.mark.long)])
def test_clip_is_done_by_its_first_attempt_when_a_process_that_does_not_render_is_killed(
    stack: Stack, frontend: Frontend, process: str
) -> None:
    task_id = _rendering(frontend)
    old_pid = stack.kill(process)
    stack.wait_for_restart(process, old_pid)
    assert _is_done_once(stack, frontend, task_id)["attempt"] == 1


def test_clip_is_done_by_a_second_attempt_when_its_lane_is_killed(stack: Stack, frontend: Frontend) -> None:
    task_id = _rendering(frontend)
    old_pid = stack.kill("lane-anisora")
    stack.wait_for_restart("lane-anisora", old_pid)
    assert _is_done_once(stack, frontend, task_id)["attempt"] == 2


# The short form of this is tests/integration/test_lane_agent.py: …_a_fresh_process_serves_when_the_process_dies.
@pytest.mark.long
def test_clip_is_done_by_a_second_attempt_when_only_the_pipeline_process_is_killed(stack: Stack, frontend: Frontend) -> None:
    task_id = _rendering(frontend)
    agent = stack.pid("lane-anisora")
    (child,) = [child for child in psutil.Process(agent).children(recursive=True) if "runtime.lane.child" in child.cmdline()]
    child.kill()
    assert _is_done_once(stack, frontend, task_id)["attempt"] == 2
    assert stack.pid("lane-anisora") == agent


def test_no_pipeline_process_is_left_when_a_lane_is_killed(stack: Stack) -> None:
    agent = stack.pid("lane-phr00t")
    (child,) = [child for child in psutil.Process(agent).children(recursive=True) if "runtime.lane.child" in child.cmdline()]
    stack.kill("lane-phr00t")
    stack.wait_for_restart("lane-phr00t", agent)
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE


def test_task_is_on_disk_before_the_reply_when_admission_dies_right_after_it(stack: Stack, frontend: Frontend) -> None:
    pid = stack.pid("admission")
    task_id = frontend.generate(**{**_CLIP, "num_frames": 5})
    os.kill(pid, signal.SIGKILL)
    stack.wait_for_restart("admission", pid)
    assert frontend.wait(task_id)["status"] == "done"


def test_stack_holds_under_4_gib_when_it_is_idle(stack: Stack) -> None:
    up = psutil.Process(stack.up_pid)
    resident = sum(process.memory_info().rss for process in [up, *up.children(recursive=True)])
    assert resident < 4 * 1024**3, f"{resident / 1024**2:.0f} MiB"


@pytest.fixture(autouse=True)
def _ready_again(stack: Stack) -> None:
    """Every test starts with both lanes warm, whatever the last one killed."""
    ends_s = time.monotonic() + 60.0
    while time.monotonic() < ends_s:
        try:
            if _are_lanes_ready(stack):
                return
        except (httpx.TransportError, OSError):
            pass
        time.sleep(0.1)
    msg = f"the lanes did not become ready again\n{stack.tails()}"
    raise AssertionError(msg)


def _are_lanes_ready(stack: Stack) -> bool:
    with grpc.insecure_channel(stack.grpc_address) as channel:
        try:
            snapshot = OperatorServiceStub(channel).GetSnapshot(operators.GetSnapshotRequest(), timeout=5.0)
        except grpc.RpcError:
            return False
    ready = {lane.lane_id for lane in snapshot.lanes if lane.availability == operators.AVAILABILITY_READY}
    return ready >= {"lane-anisora", "lane-phr00t", "degraded-pool"}
