"""One trace from the browser's request to the stored file, over processes that are killed meanwhile; nothing of anybody in it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from tests.harness.collector import CollectorDouble, Received, tree
from tests.harness.http import Frontend
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack
from tests.unit.traces.known import ATTRIBUTES

POOL = "degraded-pool"
COLLECTOR_SECRET = "collector-secret-0123456789"
NEGATIVE_PROMPT = "marked-negative-prompt"
BROWSER_SPAN = "b7ad6b7169203331"
SUBMIT = "warmlane.admission.v1.AdmissionService/SubmitTask"
STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A stack whose spans a double collects."""

    stack: LightStack
    collector: CollectorDouble

    def generate(self, trace_id: str, *, flags: str = "01", **body: object) -> str:
        """Asks for a clip as a browser that traces; the task's id."""
        headers = {"traceparent": f"00-{trace_id}-{BROWSER_SPAN}-{flags}", "tracestate": "vendor=opaque"}
        wanted = {"width": 256, "height": 256, "num_frames": 9, "seed": 1, "negative_prompt": NEGATIVE_PROMPT, **body}
        with Frontend(self.stack.http_url, self.stack.api_key) as frontend:
            reply = frontend.client.post("/generate", json=wanted, headers=headers)
            assert reply.status_code == 202, reply.text
            return str(reply.json()["task_id"])

    def wait(self, task_id: str, *, timeout_s: float = 40.0) -> str:
        """How the task ends."""
        with Frontend(self.stack.http_url, self.stack.api_key) as frontend:
            return str(frontend.wait(task_id, timeout_s=timeout_s)["status"])

    def whole(self, trace_id: str, *names: str) -> list[Received]:
        """The trace, once spans of all these names came."""
        self.collector.until(lambda: {span.name for span in self.collector.trace(trace_id)} >= set(names))
        return self.collector.trace(trace_id)

    def lines(self, process: str) -> list[dict[str, object]]:
        """What the process logged."""
        return [json.loads(line) for line in self.stack.log(process).splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """Admission, a pool without torch that loads on demand, the bridge; all of them send their spans."""
    with CollectorDouble() as collector:
        environment = {"WARMLANE_OTLP_ENDPOINT": collector.url, "WARMLANE_OTLP_HEADERS": f"authorization=Bearer%20{COLLECTOR_SECRET}"}
        folder = tmp_path_factory.mktemp("stack")
        with LightStack(folder, processes=(ADMISSION, POOL, HTTP_BRIDGE), environment=environment) as stack:
            yield Traced(stack=stack, collector=collector)


@pytest.fixture(scope="module")
def rendered(traced: Traced) -> tuple[str, list[Received]]:
    """A task that was rendered and its trace; the pool had loaded nothing before."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    task_id = traced.generate(trace_id, model="anisora", prompt="renders")
    assert traced.wait(task_id) == "done"
    return task_id, traced.whole(trace_id, "POST /generate", SUBMIT, "attempt 1", "render")


def _one(spans: list[Received], name: str) -> Received:
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, f"{name}:\n{tree(spans)}"
    return found[0]


PARENTS = {
    "POST /generate": None,
    SUBMIT: "POST /generate",
    "queue wait": SUBMIT,
    "attempt 1": SUBMIT,
    "dispatch": "attempt 1",
    "render": "attempt 1",
    "load": "render",
    "text encode": "render",
    "denoise": "render",
    "decode": "render",
    "cleanup": "render",
    "encode": "render",
    "upload": "render",
}


def test_every_part_hangs_below_what_it_is_a_part_of_when_a_clip_was_made(rendered: tuple[str, list[Received]]) -> None:
    _, spans = rendered
    for name, parent in PARENTS.items():
        assert _one(spans, name).parent_id == (BROWSER_SPAN if parent is None else _one(spans, parent).span_id), tree(spans)
    steps = [span for span in spans if span.name == "denoising step"]
    assert {span.parent_id for span in steps} == {_one(spans, "denoise").span_id}
    assert [span.attributes["warmlane.step"] for span in steps] == [1, 2, 3, 4]
    assert {span.name for span in spans} == {*PARENTS, "denoising step"}
    assert len({span.span_id for span in spans}) == len(spans)


def test_times_are_in_order_when_a_clip_was_made(rendered: tuple[str, list[Received]]) -> None:
    _, spans = rendered
    order = ["queue wait", "load", "text encode", "denoise", "decode", "cleanup", "encode", "upload"]
    ends = [_one(spans, name).ended_ns for name in order]
    assert ends == sorted(ends), tree(spans)
    assert all(span.began_ns <= span.ended_ns for span in spans)
    for name, parent in PARENTS.items():
        if name in (SUBMIT, "dispatch", "render", "load", "denoise", "encode", "upload", "cleanup"):
            outer, inner = _one(spans, str(parent)), _one(spans, name)
            # The store keeps times to the microsecond.
            assert outer.began_ns - 1000 <= inner.began_ns, tree(spans)
            assert inner.ended_ns <= outer.ended_ns + 1000, tree(spans)
    steps = [span for span in spans if span.name == "denoising step"]
    assert all(before.ended_ns == after.began_ns for before, after in pairwise(steps)), tree(spans)


def test_each_process_says_what_it_knows_when_a_clip_was_made(rendered: tuple[str, list[Received]]) -> None:
    task_id, spans = rendered
    assert {span.service for span in spans} == {"http-bridge", "admission", POOL}
    assert {span.state for span in spans} == {"vendor=opaque"}
    assert {span.attributes["warmlane.task"] for span in spans} == {task_id}
    http = _one(spans, "POST /generate")
    assert http.is_server
    assert http.attributes == {
        "http.request.method": "POST", "http.route": "/generate", "http.response.status_code": 202, "warmlane.task": task_id,
    }  # fmt: skip
    assert _one(spans, SUBMIT).attributes["warmlane.decision"] == "accepted"
    load = _one(spans, "load").attributes
    assert (load["warmlane.loaded_model"], load["warmlane.loaded_bytes"], load["warmlane.source"]) == ("anisora", 1000, "disk")
    attempt = _one(spans, "attempt 1").attributes
    assert (attempt["warmlane.end"], attempt["warmlane.lane"], attempt["warmlane.lane_mode"]) == ("done", POOL, "degraded_shared")
    assert attempt["warmlane.fallback_reason"] == "capacity"
    assert int(_one(spans, "cleanup").attributes["warmlane.memory.host_rss_after_bytes"]) > 0
    assert int(_one(spans, "upload").attributes["warmlane.video_bytes"]) > 0
    assert _one(spans, "encode").attributes["warmlane.frames"] == 9
    assert not any(span.is_failed for span in spans)


def test_a_switch_says_what_went_when_the_pool_takes_the_other_model(traced: Traced, rendered: tuple[str, list[Received]]) -> None:
    trace_id = "1af7651916cd43dd8448eb211c80319c"
    task_id = traced.generate(trace_id, model="phr00t", prompt="renders")
    assert traced.wait(task_id) == "done"
    switch = _one(traced.whole(trace_id, "render", "switch"), "switch").attributes
    assert (switch["warmlane.released_model"], switch["warmlane.loaded_model"]) == ("anisora", "phr00t")
    assert {"warmlane.residue_bytes", "warmlane.release_s", "warmlane.load_s"} <= switch.keys()


def test_nothing_is_written_when_the_browser_does_not_sample_its_trace(traced: Traced, rendered: tuple[str, list[Received]]) -> None:
    unsampled, sampled = "2af7651916cd43dd8448eb211c80319c", "3af7651916cd43dd8448eb211c80319c"
    first = traced.generate(unsampled, flags="00", model="phr00t", prompt="renders")
    second = traced.generate(sampled, model="phr00t", prompt="renders")
    assert (traced.wait(first), traced.wait(second)) == ("done", "done")
    # What came of the first would have come before.
    traced.whole(sampled, "render", "attempt 1", "POST /generate")
    assert traced.collector.trace(unsampled) == []


def test_log_lines_of_each_process_have_the_trace_when_a_clip_was_made(traced: Traced, rendered: tuple[str, list[Received]]) -> None:
    task_id, spans = rendered
    trace_id = spans[0].trace_id
    bridge = [line for line in traced.lines(HTTP_BRIDGE) if line.get("trace_id") == trace_id]
    assert [(line["event"], line["path"]) for line in bridge] == [("http_request", "/generate")]
    lane = [line for line in traced.lines(POOL) if line.get("trace_id") == trace_id]
    told = {"attempt_started", "model_switched", "gpu_freed", "memory_record", "attempt_ended", "attempt_acknowledged"}
    assert told <= {line["event"] for line in lane}
    # Each says what it is about, whatever process of the lane it is of.
    ours = [line for line in lane if line["process"] == POOL]
    assert {(line["lane"], line["task"], line["attempt"], line["model"]) for line in ours} == {(POOL, task_id, 1, "anisora")}
    assert {line["lane"] for line in lane} == {POOL}
    # The pipeline's process too.
    assert ("degraded-pool-pipeline", "loading") in {(line["process"], line["event"]) for line in lane}
    memory = [line for line in traced.lines(POOL) if line["event"] == "memory_record" and line["task"] == task_id]
    assert [line.get("trace_id") for line in memory] == [trace_id]


def test_refusals_and_probes_are_told_apart_when_they_are_traced(traced: Traced, rendered: tuple[str, list[Received]]) -> None:
    trace_id = "4af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-{BROWSER_SPAN}-01"}
    with Frontend(traced.stack.http_url, traced.stack.api_key) as frontend:
        assert frontend.client.get("/health", headers=headers).status_code == 200
        assert frontend.client.get("/made/up/marked-path", headers=headers).status_code == 404
        assert frontend.client.get(f"/status/{'0' * 32}", headers=headers).status_code == 404
        assert frontend.client.post("/generate", json={"model": "anisora", "steps": 9}, headers=headers).status_code == 422
    spans = traced.whole(trace_id, "GET", "GET /status/{task_id}", "POST /generate", "warmlane.admission.v1.AdmissionService/GetTask")
    codes = {span.name: (span.attributes["warmlane.code"], span.is_failed) for span in spans}
    assert codes == {
        "GET": ("not_found", False),
        "GET /status/{task_id}": ("task_not_found", False),
        "POST /generate": ("validation_error", False),
        "warmlane.admission.v1.AdmissionService/GetTask": ("task_not_found", False),
    }


@pytest.fixture(scope="module")
def survived(traced: Traced, rendered: tuple[str, list[Received]]) -> list[Received]:
    """The trace of a task whose admission was killed while it was rendered, and then its pipeline."""
    trace_id = "5af7651916cd43dd8448eb211c80319c"
    stack, go = traced.stack, traced.stack.folder / "models" / "go"
    task_id = traced.generate(trace_id, model="phr00t", prompt="waits")
    traced.whole(trace_id, "dispatch", SUBMIT, "denoising step")
    stack.restart(ADMISSION)
    stack.until(lambda: _has_work(stack, 1), 20, "the lane did not attach again")
    pipeline = stack.pipeline_pid(POOL)
    assert pipeline is not None
    _kill(pipeline)
    stack.until(lambda: _has_work(stack, 2), 20, "there was no second attempt")
    go.touch()
    try:
        assert traced.wait(task_id) == "done"
    finally:
        go.unlink()
    traced.collector.until(lambda: len([span for span in traced.collector.trace(trace_id) if span.name == "render"]) == 2)
    return traced.whole(trace_id, "attempt 1", "attempt 2")


def _has_work(stack: LightStack, attempt: int) -> bool:
    try:
        lanes = stack.snapshot().lanes
    except grpc.RpcError:
        return False
    return any(lane.HasField("last_report_age") and lane.attempt == attempt for lane in lanes)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_the_trace_goes_on_when_admission_was_restarted_in_the_middle(survived: list[Received]) -> None:
    submit, first = _one(survived, SUBMIT), _one(survived, "attempt 1")
    assert submit.instance != first.instance
    assert (submit.service, first.service) == ("admission", "admission")
    assert first.parent_id == _one(survived, "attempt 2").parent_id == submit.span_id
    assert submit.ended_ns < first.ended_ns


def test_the_second_attempt_is_in_the_same_trace_when_the_first_was_lost(survived: list[Received]) -> None:
    first, second = _one(survived, "attempt 1"), _one(survived, "attempt 2")
    assert (first.attributes["warmlane.end"], first.is_failed) == ("lane_lost", True)
    assert (second.attributes["warmlane.end"], second.is_failed) == ("done", False)
    renders = {span.parent_id: span for span in survived if span.name == "render"}
    assert renders.keys() == {first.span_id, second.span_id}
    assert renders[first.span_id].attributes["warmlane.end"] == "lane_lost"
    cleanups = {span.parent_id: span.attributes for span in survived if span.name == "cleanup"}
    assert "warmlane.memory.unmeasured_reason" in cleanups[renders[first.span_id].span_id]
    waits = [span for span in survived if span.name == "queue wait"]
    assert sorted(span.attributes["warmlane.attempt"] for span in waits) == [1, 2]


def test_clips_are_made_as_ever_when_nobody_takes_the_spans(traced: Traced, rendered: tuple[str, list[Received]]) -> None:
    lost, kept = "6af7651916cd43dd8448eb211c80319c", "7af7651916cd43dd8448eb211c80319c"
    traced.collector.stop()
    try:
        assert traced.wait(traced.generate(lost, model="phr00t", prompt="renders"), timeout_s=20) == "done"
    finally:
        traced.collector.start()
    assert traced.wait(traced.generate(kept, model="phr00t", prompt="renders"), timeout_s=20) == "done"
    # What could not be sent is sent with the next.
    traced.whole(kept, "POST /generate", SUBMIT, "attempt 1", "render")


def test_nothing_of_anybody_is_in_a_span_when_clips_were_made(traced: Traced, rendered: tuple[str, list[Received]]) -> None:
    sent = b"".join(traced.collector.bodies)
    folder: Path = traced.stack.folder
    secrets = [NEGATIVE_PROMPT, traced.stack.api_key, COLLECTOR_SECRET, "127.0.0.1", str(folder), "marked-path", "python-httpx"]
    assert [secret for secret in secrets if secret.encode() in sent] == []
    assert {name for span in traced.collector.spans for name in span.attributes} <= ATTRIBUTES
    # Prompts that say how the pipeline behaves are words of their own in no span.
    values = {value for span in traced.collector.spans for value in span.attributes.values()}
    assert values.isdisjoint({"renders", "waits"})
    assert {headers["authorization"] for headers in traced.collector.headers} == {f"Bearer {COLLECTOR_SECRET}"}
    assert all(COLLECTOR_SECRET not in traced.stack.log(process) for process in traced.stack.names)


def test_the_pipeline_sees_no_header_of_the_collector_when_it_is_started(traced: Traced) -> None:
    pid = traced.stack.pipeline_pid(POOL)
    assert pid is not None
    assert COLLECTOR_SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
