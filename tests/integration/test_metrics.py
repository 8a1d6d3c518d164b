"""The processes' own `/metrics` while a clip is made: they agree with each other, and hold nothing of the request."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.harness.http import Frontend
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack
from tests.harness.metrics import Page, scraped
from tests.unit.metrics.test_names import ALL, LABELS

LANE = "lane-anisora"
PROMPT = "renders"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LightStack]:
    """Admission, one lane without torch, the bridge."""
    with LightStack(tmp_path_factory.mktemp("stack"), processes=(ADMISSION, LANE, HTTP_BRIDGE)) as running:
        yield running


def _page(stack: LightStack, process: str) -> Page:
    events = [json.loads(line) for line in stack.log(process).splitlines() if line.startswith("{")]
    return scraped(next(event["port"] for event in events if event["event"] == "metrics_listening"))


@pytest.fixture(scope="module")
def rendered(stack: LightStack) -> tuple[str, str, dict[str, Page]]:
    """The task and the session of a clip of 9 frames that was made, and the pages after it."""
    with Frontend(stack.http_url, stack.api_key) as frontend:
        session = frontend.client.post("/auth/session")
        cookie = next(iter(session.cookies.values()))
        task_id = frontend.generate(model="anisora", prompt=PROMPT, width=256, height=256, num_frames=9, seed=1)
        assert frontend.wait(task_id)["status"] == "done"
        content = frontend.result(task_id)
    pages = {name: _page(stack, name) for name in (ADMISSION, LANE, HTTP_BRIDGE)}
    assert pages[HTTP_BRIDGE].value("http_sent_bytes_total", route="/results/{task_id}") == len(content)
    return task_id, cookie, pages


def test_processes_agree_when_a_clip_was_made(rendered: tuple[str, str, dict[str, Page]]) -> None:
    admission, lane, bridge = rendered[2].values()
    assert bridge.value("http_requests_total", route="/generate", method="POST", code="202") == 1
    submit = "warmlane.admission.v1.AdmissionService/SubmitTask"
    assert admission.value("grpc_requests_total", method=submit, code="OK") == 1
    assert admission.value("admission_acceptances_total", model="anisora", lane_mode="dedicated") == 1
    assert admission.value("admission_leases_total", lane=LANE, lane_mode="dedicated", model="anisora") == 1
    assert admission.value("admission_task_ends_total", model="anisora", code="done") == 1
    assert admission.value("admission_memory_records_total", lane=LANE, state="measured") == 1
    assert admission.total("admission_store_commit_seconds_count") > 0
    assert admission.value("admission_lane_warm", lane=LANE) == lane.value("lane_warm", lane=LANE) == 1
    assert lane.value("lane_attached", lane=LANE, lane_mode="dedicated") == 1
    assert lane.value("lane_attempts_total", model="anisora", code="done") == 1
    assert lane.value("lane_frames_total", model="anisora") == 9
    # Three latent frames of 16 by 16 patches.
    assert lane.value("lane_latent_tokens_total", model="anisora") == 768
    assert lane.value("lane_step_seconds_count", model="anisora") == 1
    assert lane.value("lane_cold_start_seconds_count") == lane.value("lane_cold_starts_total") == 1
    assert lane.value("lane_resident_model_info", model="anisora") == 1


def test_nothing_of_the_request_is_told_when_a_clip_was_made(stack: LightStack, rendered: tuple[str, str, dict[str, Page]]) -> None:
    task_id, cookie, pages = rendered
    for page in pages.values():
        for hidden in (task_id, cookie, stack.api_key, PROMPT, "results/", "127.0.0.1"):
            assert hidden not in page.text.replace("/results/{task_id}", "")


def test_every_series_is_of_the_catalogues_when_real_processes_are_asked(rendered: tuple[str, str, dict[str, Page]]) -> None:
    known = {one.name.removesuffix("_total"): one for one in ALL}
    told = {name: family for page in rendered[2].values() for name, family in page.families.items()}
    # Without a GPU and a switch some have no series, but all have their HELP.
    assert set(told) == set(known)
    for name, family in told.items():
        assert family.documentation == known[name].meaning
        assert family.type == known[name].kind
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(known[name].labels) <= LABELS


@pytest.mark.parametrize("process", [ADMISSION, LANE, HTTP_BRIDGE])
def test_promtool_finds_nothing_when_it_checks_a_page(rendered: tuple[str, str, dict[str, Page]], process: str) -> None:
    # Debian: apt-get install prometheus. Where it is not there, tests/unit/metrics/test_names.py holds the metrics to the same rules.
    promtool = shutil.which("promtool")
    if promtool is None:
        assert "CI" not in os.environ, "CI has promtool: .ci/run installs it"
        pytest.skip("promtool is not installed")
    page = rendered[2][process].text
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False, timeout=30)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
