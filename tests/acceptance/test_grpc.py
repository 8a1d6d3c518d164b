"""Engineers without the bridge: grpcurl by reflection, the example client, and the command line, all on the real stack."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.stack import Stack
from tests.harness.video import decode, picture

_ROOT = Path(__file__).resolve().parents[2]
_BIN = Path(sys.executable).parent
_ADMISSION = "warmlane.admission.v1.AdmissionService"
_REQUEST = {"model": "phr00t", "prompt": "a paper boat", "width": 256, "height": 256, "num_frames": 5}
_PATIENCE_S = 120.0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)


def _grpcurl(*arguments: str, data: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("grpcurl", path=str(_BIN))
    assert binary is not None, "grpcurl comes with `make install`"
    body = [] if data is None else ["-d", json.dumps(data)]
    return _run(binary, "-plaintext", *body, *arguments)


def _warmlane(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(str(_BIN / "warmlane"), *arguments, "--address", stack.grpc_address)


def test_grpcurl_lists_the_services_by_reflection(stack: Stack) -> None:
    listed = set(_grpcurl(stack.grpc_address, "list").stdout.split())
    assert listed >= {
        _ADMISSION,
        "warmlane.admission.v1.AccessService",
        "warmlane.admission.v1.OperatorService",
        "warmlane.lane.v1.DispatchService",
        "grpc.health.v1.Health",
    }


@pytest.mark.parametrize("process", ["admission", "lane-anisora", "lane-phr00t", "degraded-pool"])
def test_grpcurl_gets_serving_from_the_health_of_every_grpc_process(stack: Stack, process: str) -> None:
    assert json.loads(_grpcurl(stack.address(process), "grpc.health.v1.Health/Check").stdout) == {"status": "SERVING"}


def test_grpcurl_sees_a_lane_s_own_status(stack: Stack) -> None:
    report = json.loads(_grpcurl(stack.address("lane-phr00t"), "warmlane.lane.v1.InspectionService/GetStatus").stdout)["report"]
    assert (report["lane_id"], report["resident_model"], report["warm"]) == ("lane-phr00t", "phr00t", True)


def test_grpcurl_submits_and_watches_a_task_to_its_end(stack: Stack) -> None:
    accepted = json.loads(_grpcurl(stack.grpc_address, f"{_ADMISSION}/SubmitTask", data={"request": _REQUEST}).stdout)
    task_id = accepted["task"]["task_id"]
    watched = _grpcurl(stack.grpc_address, f"{_ADMISSION}/WatchTask", data={"task_id": task_id})
    assert watched.returncode == 0, watched.stderr
    last = _last_json(watched.stdout)["task"]
    assert (last["state"], last["progress"], last["result"]["num_frames"]) == ("TASK_STATE_DONE", 100, 5)


def test_error_carries_reason_and_fields_when_grpcurl_sends_a_wrong_one(stack: Stack) -> None:
    refused = _grpcurl(stack.grpc_address, f"{_ADMISSION}/SubmitTask", data={"request": {**_REQUEST, "steps": 30}})
    assert refused.returncode != 0
    assert all(word in refused.stderr for word in ("InvalidArgument", "VALIDATION_ERROR", "steps"))


def test_example_client_uploads_submits_watches_and_reads(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(picture())
    ran = _run(
        sys.executable,
        "examples/grpc_client.py",
        str(tmp_path / "picture.png"),
        str(tmp_path / "clip.mp4"),
        "--frames",
        "9",
        "--address",
        stack.grpc_address,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = decode((tmp_path / "clip.mp4").read_bytes())
    assert (seen.width, seen.height, seen.frames) == (512, 512, 9)


def test_command_line_renders_to_a_file(stack: Stack, tmp_path: Path) -> None:
    output = tmp_path / "clip.webm"
    ran = _warmlane(
        stack, "submit", "--model", "phr00t", "--prompt", "a windmill", "--width", "256", "--height", "256", "--frames", "9",
        "--fps", "24", "--output", str(output),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    seen = decode(output.read_bytes())
    assert (seen.frames, seen.codec) == (9, "vp9")


def test_command_line_shows_lanes_and_queue_as_json(stack: Stack) -> None:
    lanes = json.loads(_warmlane(stack, "lanes", "--json").stdout)
    queue = json.loads(_warmlane(stack, "queue", "--json").stdout)
    assert {lane["lane_id"] for lane in lanes["lanes"]} == {"lane-anisora", "lane-phr00t", "degraded-pool"}
    assert queue["degraded"]["max_depth"] == 25


def test_command_line_says_what_is_wrong_and_exits_with_2_when_the_request_is_bad(stack: Stack) -> None:
    ran = _warmlane(stack, "submit", "--model", "anisora", "--prompt", "a boat", "--steps", "12")
    assert ran.returncode == 2
    assert "steps" in ran.stderr


def test_command_line_exits_with_3_when_admission_is_away() -> None:
    ran = _run(str(_BIN / "warmlane"), "queue", "--address", "127.0.0.1:9")
    assert ran.returncode == 3
    assert len(ran.stderr.strip().splitlines()) <= 2


def _last_json(text: str) -> dict[str, Any]:
    decoder, position, last = json.JSONDecoder(), 0, None
    while position < len(text):
        last, position = decoder.raw_decode(text, position)
        position += len(text[position:]) - len(text[position:].lstrip())
    assert isinstance(last, dict)
    return last
