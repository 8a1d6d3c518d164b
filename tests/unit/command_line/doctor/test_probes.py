"""The real probes on this machine, and the command as people run it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from command_line.__main__ import app
from command_line.doctor import machine_probes, network_probes
from command_line.doctor.command import make_case, to_json
from command_line.doctor.examination import CHECKS, examine, name_of, worst
from command_line.doctor.finding import Case, Finding, Outcome, failed, ok, skipped, warning
from command_line.doctor.probes import ProbeError, Probes
from runtime.lane.survey import survey
from runtime.survey import SurveyOrder
from tests.unit.command_line.conftest import Served
from tests.unit.command_line.doctor.conftest import broken, every


def test_speed_is_measured_and_nothing_is_left_when_a_folder_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_probes, "_TRIAL_BYTES", 2 * 1024 * 1024)
    speed = machine_probes.disk_speed(tmp_path)
    assert min(speed.write_bytes_s, speed.read_bytes_s) > 0
    assert list(tmp_path.iterdir()) == []


def test_folder_is_named_when_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="gone"):
        machine_probes.disk_speed(tmp_path / "gone")


def test_holder_of_a_port_is_this_process_when_it_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        held = machine_probes.holder(port)
        assert held is not None
        assert held.pid == os.getpid()
    assert machine_probes.holder(port) is None


def test_processes_that_one_has_started_are_its_descendants() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as started:
        assert started.pid in machine_probes.descendants(os.getpid())
        started.communicate()
    assert not machine_probes.descendants(started.pid)


def test_driver_is_read_when_nvidia_smi_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\ncase $1 in\n"
        '*compute-apps*) echo "GPU-1, 42, /usr/bin/python, with a comma, 900"; echo "GPU-1, 43, /usr/bin/python, [N/A]" ;;\n'
        '*) echo "0, GPU-1, NVIDIA A10G, 580.1, 23028, 910, 8.6" ;;\nesac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    driver = machine_probes.driver()
    assert driver is not None
    assert [(one.name, one.used_mib, one.capability) for one in driver.gpus] == [("NVIDIA A10G", 910, "8.6")]
    # A line that cannot be split is left out, a figure that is not told is 0.
    assert [(one.pid, one.name, one.used_mib) for one in driver.processes] == [(43, "python", 0)]
    script.write_text("#!/bin/sh\nexit 9\n")
    assert machine_probes.driver() is None


def test_survey_comes_from_a_process_of_its_own(tmp_path: Path) -> None:
    found = machine_probes.survey(SurveyOrder(models_dir=tmp_path, models=("anisora",)))
    assert 0 < found.available_bytes <= found.host_bytes
    assert found.torch is None
    assert "it has no manifest.json" in found.weights["anisora"]


def test_why_is_told_when_the_surveying_process_ends_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ProbeError, match="ended without an answer: exit code 1"):
        machine_probes.survey(SurveyOrder())


@pytest.mark.torch
def test_torch_is_looked_at_when_the_order_says_so() -> None:
    found = survey(SurveyOrder(with_torch=True)).torch
    assert found is not None
    assert (found.version.startswith("2."), found.error) == (True, "")


def test_object_store_keeps_nothing_when_it_was_tried(tmp_path: Path) -> None:
    assert network_probes.object_store(tmp_path.as_uri()) >= 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(ProbeError, match="file:/// or s3://"):
        network_probes.object_store("ftp://somewhere")


def test_object_store_is_given_up_when_it_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_probes, "_STORE_PATIENCE_S", 0.1)
    for name, value in (("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "hush"), ("REGION", "eu-central-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    # Listens, and never says a word.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ProbeError, match=r"does not answer within 0 s"):
            network_probes.object_store("s3://bucket/prefix")


def test_bridge_tells_status_and_time(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    case = Case(profile="tiny", data_dir=tmp_path, models_dir=tmp_path, address="")
    answer = network_probes.http_health(f"http://127.0.0.1:{server.server_port}", case)
    thread.join(5)
    server.server_close()
    assert (answer.status, answer.date is not None) == (200, True)
    with pytest.raises(ProbeError, match="does not answer"):
        network_probes.http_health(f"http://127.0.0.1:{server.server_port}", case)


def test_collector_tells_its_status_and_gets_an_empty_message() -> None:
    seen: list[tuple[str, str | None, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, self.headers["authorization"], self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1/traces"
    assert network_probes.collector(url, {"authorization": "Bearer hush"}) == 200
    thread.join(5)
    server.server_close()
    assert seen == [("/v1/traces", "Bearer hush", "0")]
    with pytest.raises(ProbeError, match="does not answer") as caught:
        network_probes.collector(url, {"authorization": "Bearer hush"})
    assert "hush" not in str(caught.value)


def test_every_other_check_is_made_when_one_cannot_look_or_breaks(case: Case, probes: Probes) -> None:
    def check_broken(case: Case, probes: Probes) -> list[Finding]:
        raise ZeroDivisionError("oh")

    def check_blind(case: Case, probes: Probes) -> list[Finding]:
        broken("no light")()
        return []

    looked: list[str] = []
    found = list(examine(case, probes, checks=(check_broken, check_blind, *CHECKS), on_check=looked.append))
    assert every(found, Outcome.FAILED)[:2] == ["broken", "blind"]
    assert "ZeroDivisionError" in found[0].found
    assert looked[2:] == [name_of(check) for check in CHECKS]


@pytest.mark.parametrize(
    ("findings", "outcome"),
    [
        ([ok("a", ""), skipped("b", "")], Outcome.OK),
        ([ok("a", ""), warning("b", "", "")], Outcome.WARNING),
        ([warning("a", "", ""), failed("b", "", "")], Outcome.FAILED),
    ],
)
def test_worst_finding_says_how_it_stands_with_all(findings: list[Finding], outcome: Outcome) -> None:
    assert worst(findings) is outcome
    assert json.loads(to_json(findings))["outcome"] == outcome


def test_every_finding_has_its_line_on_the_page(case: Case, probes: Probes) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "howto" / "doctor.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z][a-zN.-]*)`", "\n".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `")))
    for found in examine(case, probes, on_check=lambda name: None):
        name = re.sub(r"\d+", "N", found.name)
        assert any(name == one or name.startswith(f"{one}.") for one in named), name


def test_stack_of_the_data_folder_is_found_when_it_runs(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ports.json").write_text('{"admission": 7, "admission-metrics": 8}')
    (tmp_path / "run" / "admission.pid").write_text("42\n")
    case = make_case("tiny", tmp_path, None, None, {})
    assert (case.address, case.is_named, dict(case.pids)) == ("127.0.0.1:7", False, {"admission": 42})
    assert case.models_dir == tmp_path / "models"


def test_everything_is_listed_as_json_when_a_stack_answers(
    runner: CliRunner, threaded_admission: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_probes, "_TRIAL_BYTES", 2 * 1024 * 1024)
    threaded_admission.script.snapshot.lanes.add(lane_id="lane-x", reason="loading")
    threaded_admission.script.snapshot.taken_at.GetCurrentTime()
    words = ["doctor", "--json", "--data-dir", str(tmp_path), "--address", threaded_admission.address]
    ran = runner.invoke(app, words)
    document = json.loads(ran.stdout)
    checks = {one["name"]: one for one in document["checks"]}
    assert checks["lanes.lane-x"]["outcome"] == "warning"
    assert {"clock.admission", "python", "packages", "memory", "disk.speed", "gpu.driver", "clock.monotonic", "admission"} <= set(checks)
    assert ran.exit_code == (1 if document["outcome"] == "failed" else 0)


def test_exit_code_is_1_when_a_named_admission_is_away(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_probes, "_TRIAL_BYTES", 2 * 1024 * 1024)
    ran = runner.invoke(app, ["doctor", "--data-dir", str(tmp_path), "--address", "127.0.0.1:9"])
    assert ran.exit_code == 1
    assert "failed    admission: admission does not answer at 127.0.0.1:9" in ran.stdout
    assert "          -> Look at its log" in ran.stdout
    assert runner.invoke(app, ["doctor", "--profile", "huge"]).exit_code == 2
