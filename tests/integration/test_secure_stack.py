"""The real processes with TLS, client certificates and tokens between them, and what a stranger gets from them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from runtime.roles import Role
from tests.harness.credentials import TOKENS, Authority, Issued
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE
from tests.harness.secure_stack import SecureStack, secure_environment
from tests.harness.video import picture

ROOT = Path(__file__).resolve().parents[2]
LANE = "lane-anisora"
BODY = {"model": "anisora", "prompt": "a paper boat", "width": 256, "height": 256, "num_frames": 9, "fps": 8, "mode": "t2v"}
GRPCURL = Path(sys.executable).parent / "grpcurl"
OLD = "old-" + "f" * 32


Grpcurl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Issued, Issued]:
    """A CA, the certificate of the servers, and one for whoever calls them."""
    ca = Authority(tmp_path_factory.mktemp("certificates"))
    return ca, ca.issue(), ca.issue("caller", file="caller")


@pytest.fixture(scope="module")
def settings(files: tuple[Authority, Issued, Issued]) -> Mapping[str, str]:
    """One file of settings for all three, as on one machine; the lanes' token is being replaced."""
    return secure_environment(*files) | {"WARMLANE_LANE_TOKEN": f"{OLD},{TOKENS[Role.LANE]}"}


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, files: tuple[Authority, Issued, Issued], settings: Mapping[str, str]
) -> Iterator[SecureStack]:
    """The three, running."""
    ca, _server, caller = files
    with SecureStack(tmp_path_factory.mktemp("stack"), ca, caller, settings, processes=(ADMISSION, LANE, HTTP_BRIDGE)) as running:
        yield running


@pytest.fixture
def grpcurl(files: tuple[Authority, Issued, Issued]) -> Grpcurl:
    """Runs grpcurl with the certificates, and the token if one is given."""
    assert GRPCURL.exists() or shutil.which("grpcurl"), "grpcurl comes with `make install`"
    ca, _, caller = files

    def run(*words: str, token: str = "", data: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        shown = ["-cacert", str(ca.cert), "-cert", str(caller.cert), "-key", str(caller.key)]
        # By its name in the environment: a word of a command line is seen by everyone on the machine.
        shown += ["-expand-headers", "-rpc-header", "authorization: Bearer ${TOKEN}"] if token else []
        body = ["-d", json.dumps(data)] if data is not None else []
        binary = str(GRPCURL) if GRPCURL.exists() else "grpcurl"
        return subprocess.run(
            [binary, "-max-time", "10", *shown, *body, *words],
            env={"TOKEN": token},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    return run


def _done(stack: SecureStack) -> dict[str, Any]:
    """The status of a task that the bridge took in, at its end."""
    with httpx.Client(base_url=stack.http_url, headers={"X-API-Key": stack.api_key}, timeout=20) as http:
        accepted = http.post("/generate", json=BODY)
        assert accepted.status_code == 202, accepted.text
        status: dict[str, Any] = {}

        def is_over() -> bool:
            status.update(http.get(f"/status/{accepted.json()['task_id']}").json())
            return status["status"] in ("done", "failed")

        stack.until(is_over, 30.0, "the task did not end")
    return status


def test_task_is_rendered_when_every_connection_is_mutual_tls_with_tokens(stack: SecureStack) -> None:
    assert _done(stack)["status"] == "done"


def test_admission_answers_grpcurl_when_it_shows_certificate_and_token(stack: SecureStack, grpcurl: Grpcurl) -> None:
    method = "warmlane.admission.v1.OperatorService/GetSnapshot"
    snapshot = grpcurl(stack.grpc_address, method, token=TOKENS[Role.OPERATOR])
    assert snapshot.returncode == 0, snapshot.stderr
    assert [lane["lane_id"] for lane in json.loads(snapshot.stdout)["lanes"]] == [LANE]
    nobody, lane = grpcurl(stack.grpc_address, method), grpcurl(stack.grpc_address, method, token=OLD)
    assert ("Unauthenticated" in nobody.stderr, "UNAUTHENTICATED" in nobody.stderr) == (True, True)
    assert ("PermissionDenied" in lane.stderr, "FORBIDDEN" in lane.stderr) == (True, True)
    # Health and reflection are open.
    assert json.loads(grpcurl(stack.grpc_address, "grpc.health.v1.Health/Check").stdout) == {"status": "SERVING"}
    assert "warmlane.lane.v1.DispatchService" in grpcurl(stack.grpc_address, "list").stdout


def test_lane_is_looked_into_by_operators_only_when_it_has_tokens(stack: SecureStack, grpcurl: Grpcurl) -> None:
    port = next(json.loads(line)["port"] for line in stack.log(LANE).splitlines() if '"lane_started"' in line)
    method = "warmlane.lane.v1.InspectionService/GetStatus"
    seen = grpcurl(f"127.0.0.1:{port}", method, token=TOKENS[Role.OPERATOR])
    assert json.loads(seen.stdout)["report"]["lane_id"] == LANE
    assert "PermissionDenied" in grpcurl(f"127.0.0.1:{port}", method, token=OLD).stderr
    assert "Unauthenticated" in grpcurl(f"127.0.0.1:{port}", method).stderr


def test_stranger_gets_nowhere_when_it_has_no_certificate(stack: SecureStack, files: tuple[Authority, Issued, Issued]) -> None:
    trusted = grpc.ssl_channel_credentials(files[0].cert.read_bytes())
    for credentials in (trusted, None):
        channel = grpc.insecure_channel(stack.grpc_address) if credentials is None else grpc.secure_channel(stack.grpc_address, credentials)
        with channel, pytest.raises(grpc.RpcError) as caught:
            OperatorServiceStub(channel).GetSnapshot(operators.GetSnapshotRequest(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_doctor_finds_all_well_when_it_has_the_settings_of_the_processes(stack: SecureStack, settings: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "command_line", "doctor", "--json", "--data-dir", str(stack.folder), "--address", stack.grpc_address]
    ran = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60, check=False)
    found = {one["name"]: (one["outcome"], one["found"]) for one in json.loads(ran.stdout)["checks"]}
    for name in ("credentials", "certificates.tls_cert_file", "certificates.tls_client_cert_file", "admission", f"lanes.{LANE}"):
        assert found[name][0] == "ok", found[name]
    assert found["clock.admission"][0] == "ok"
    for token in TOKENS.values():
        assert token not in ran.stdout + ran.stderr


def _example(name: str, *words: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WARMLANE_")}
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    return subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_example_client_brings_a_video_when_it_has_the_settings_of_the_command_line(
    stack: SecureStack, settings: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "picture.png").write_bytes(picture())
    words = (str(tmp_path / "picture.png"), str(tmp_path / "clip.mp4"))
    ours = {**settings, "WARMLANE_ADMISSION_ADDRESS": stack.grpc_address}
    ran = _example("grpc_client.py", *words, environment=ours)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "clip.mp4").stat().st_size > 0
    # Of two roles, the client's; without any, the answer says what is missing.
    as_lane = _example("grpc_client.py", *words, environment={**ours, "WARMLANE_CLIENT_TOKEN": OLD})
    nobody = _example("grpc_client.py", *words, environment={**ours, "WARMLANE_CLIENT_TOKEN": "", "WARMLANE_OPERATOR_TOKEN": ""})
    assert (as_lane.returncode, "FORBIDDEN" in as_lane.stdout) == (1, True)
    assert (nobody.returncode, "UNAUTHENTICATED" in nobody.stdout) == (1, True)


def test_example_reporter_denies_and_takes_back_when_it_has_the_operators_token(stack: SecureStack, settings: Mapping[str, str]) -> None:
    command = [sys.executable, str(ROOT / "examples" / "report_capacity.py"), "phr00t", "--address", stack.grpc_address]
    with subprocess.Popen(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "not denied" not in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert "not denied" in process.stdout.readline()
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_example_sends_no_token_in_the_clear_when_the_address_is_elsewhere() -> None:
    ran = _example("report_capacity.py", "anisora", "--address", "192.0.2.1:50051", environment={"WARMLANE_OPERATOR_TOKEN": OLD})
    assert (ran.returncode, "over TLS only" in ran.stderr) == (2, True)


def test_lane_attaches_again_with_the_new_token_when_the_old_one_is_gone(stack: SecureStack) -> None:
    # As the page of rotation says: the lane gets the new token first, then the servers forget the old one.
    for name in (LANE, ADMISSION):
        stack.set_for_next_start(name, "WARMLANE_LANE_TOKEN", TOKENS[Role.LANE])
        stack.restart(name)
        stack.wait_until_ready()
    assert _done(stack)["status"] == "done"


def test_log_of_no_process_has_a_token_when_all_have_worked(stack: SecureStack) -> None:
    for name in stack.names:
        log = stack.log(name)
        assert len(log) > 500
        for secret in (*TOKENS.values(), OLD):
            # Nor a large part of one.
            assert secret not in log
            assert secret[-20:] not in log
        # But for the advice to send one.
        assert not re.search(r"(?i)bearer (?!TOKEN)", log)


def test_log_says_whose_token_was_refused_when_strangers_have_called(stack: SecureStack) -> None:
    refused = [json.loads(line) for line in stack.log(ADMISSION).splitlines() if '"call_refused"' in line]
    assert refused
    assert {line["peer"] for line in refused} == {"ipv4:127.0.0.1"}
