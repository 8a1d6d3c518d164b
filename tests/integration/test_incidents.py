"""Ten incidents, each provoked on running processes: metric, event, log line and console say what docs/reference/incidents.md says."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.admission.v1.task_pb2 import TaskEvent

from tests.harness.console_watch import ConsoleWatch
from tests.harness.http import Frontend, fetch
from tests.harness.incident_table import EventClue, LogClue, MetricClue, Row, rows
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack
from tests.harness.metrics import Page, scraped

ADMIN_KEY = "incidents-admin-key-0123456789"
LANE, MODEL = "lane-anisora", "anisora"
POOL = "degraded-pool"
ROOT = Path(__file__).resolve().parents[2]
CLIP = {"model": MODEL, "width": 256, "height": 256, "num_frames": 1, "seed": 1, "mode": "t2v"}
SHOWN_S = 20.0
# Over what counts as slow, below what a write waits for a lock.
LOCKED_S = 0.8
BUDGET_BYTES = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A running stack and who looks at it."""

    stack: LightStack
    console: ConsoleWatch
    frontend: Frontend

    @contextmanager
    def operator(self) -> Iterator[Any]:
        """What operators call."""
        with grpc.insecure_channel(self.stack.grpc_address) as channel:
            yield OperatorServiceStub(channel)

    def say(self, path: str, **order: bool) -> None:
        """An order of an admin, over the bridge."""
        reply = fetch("POST", f"{self.stack.http_url}/admin/{path}", headers={"X-Admin-Key": ADMIN_KEY}, json=order)
        assert reply.status_code == 200, reply.text

    def generate(self, prompt: str) -> str:
        """An accepted task."""
        return self.frontend.generate(**CLIP, prompt=prompt)

    def until(self, condition: Callable[[], bool], problem: str, timeout_s: float = SHOWN_S) -> None:
        """Returns when it holds."""
        self.stack.until(condition, timeout_s, problem)

    def page(self, process: str) -> Page:
        """What its `/metrics` says; of the life that it has now."""
        ports = [line["port"] for line in self.lines(process) if line["event"] == "metrics_listening"]
        return scraped(ports[-1])

    def lines(self, process: str) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.stack.log(process).splitlines() if line.startswith("{") and line.endswith("}")]

    def events(self, after: int) -> list[TaskEvent]:
        """What was recorded behind this sequence."""
        with self.operator() as operator:
            request = operators.WatchEventsRequest(after_sequence=after, no_follow=True)
            return [event for page in operator.WatchEvents(request, timeout=10) for event in page.events]

    def ready(self) -> bool:
        """Every lane can be given work."""
        return all(lane.availability == operators.AVAILABILITY_READY for lane in self.stack.snapshot().lanes)


@contextmanager
def _scene(folder: Path, **options: Any) -> Iterator[Scene]:
    stack = LightStack(folder, environment={"WARMLANE_ADMIN_KEY": ADMIN_KEY}, **options)
    for name in options.get("catalogs", {}):
        stack.set_for_next_start(name, "WARMLANE_MEMORY_BUDGET_BYTES", str(BUDGET_BYTES))
    # The watch ends when the bridge is gone.
    with ConsoleWatch(stack.http_url, ADMIN_KEY) as console, stack, Frontend(stack.http_url, stack.api_key) as frontend:
        scene = Scene(stack=stack, console=console, frontend=frontend)
        scene.until(lambda: bool(console.latest), "the console shows nothing")
        yield scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Every process, pipelines without torch."""
    with _scene(tmp_path_factory.mktemp("incidents")) as running:
        yield running


@pytest.fixture(scope="module")
def torch_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A lane with a real pipeline on a CPU of little memory, in which a prompt says what goes wrong."""
    catalogs = {LANE: "tests.harness.meddled_catalog:catalog"}
    processes = (ADMISSION, LANE, HTTP_BRIDGE)
    with _scene(tmp_path_factory.mktemp("memory"), processes=processes, catalogs=catalogs, ready_timeout_s=180) as running:
        yield running


# Incidents: each provokes one and yields while it lasts; leaving ends it.


@contextmanager
def _lane_is_killed(scene: Scene) -> Iterator[None]:
    task_id = scene.generate("waits")
    scene.frontend.wait_for_stage(task_id, "inference")
    # Real models take minutes to load; these would be warm again between two looks of the console.
    slow = scene.stack.folder / "models" / "slow"
    slow.touch()
    scene.stack.kill(LANE)
    yield
    slow.unlink()
    (scene.stack.folder / "models" / "go").touch()
    assert scene.frontend.wait(task_id)["attempt"] == 2


@contextmanager
def _quota_is_denied(scene: Scene) -> Iterator[None]:
    denied = operators.ReportCapacityRequest(model=MODEL, capacity=operators.CAPACITY_DENIED, reason="no GPU in the region")
    denied.valid_for.FromSeconds(600)
    with scene.operator() as operator:
        operator.ReportCapacity(denied, timeout=10)
        yield
        operator.ReportCapacity(operators.ReportCapacityRequest(model=MODEL, capacity=operators.CAPACITY_RESTORED), timeout=10)


@contextmanager
def _is_overloaded(scene: Scene) -> Iterator[None]:
    """Nobody takes anything; 25 wait, and one more comes."""
    scene.say(f"lanes/{POOL}/drain", drained=True)
    scene.say(f"models/{MODEL}/fallback", enabled=True)
    with ThreadPoolExecutor(25) as callers:
        waiting = [callers.submit(scene.generate, "renders") for _ in range(25)]
        scene.until(lambda: scene.stack.snapshot().degraded.held == 25, "the places were not taken")
        refused = scene.frontend.client.post("/generate", json={**CLIP, "prompt": "renders"})
        assert refused.json()["detail"]["code"] == "queue_overloaded"
        yield
        scene.say(f"models/{MODEL}/fallback", enabled=False)
        scene.say(f"lanes/{POOL}/drain", drained=False)
        cancelled = callers.map(lambda one: scene.frontend.client.post(f"/cancel/{one.result(30)}").status_code, waiting)
        assert set(cancelled) == {200}


@contextmanager
def _store_is_slow(scene: Scene) -> Iterator[None]:
    """Another process has the database for a while, as a slow disk would."""
    with closing(sqlite3.connect(scene.stack.database, isolation_level=None, timeout=5, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        giving_back = threading.Timer(LOCKED_S, connection.execute, ["ROLLBACK"])
        giving_back.start()
        try:
            # The caller waits for the lock, and then it is stored.
            with scene.operator() as operator:
                operator.DrainLane(operators.DrainLaneRequest(lane_id=POOL), timeout=20)
                operator.DrainLane(operators.DrainLaneRequest(lane_id=POOL, resume=True), timeout=20)
        finally:
            giving_back.join()
    yield


@contextmanager
def _cold_start_fails(scene: Scene) -> Iterator[None]:
    missing = scene.stack.folder / "models" / "missing"
    missing.touch()
    scene.stack.kill(LANE)
    yield
    missing.unlink()


@contextmanager
def _model_is_sent_to_the_pool(scene: Scene) -> Iterator[None]:
    scene.say(f"models/{MODEL}/fallback", enabled=True)
    yield
    scene.say(f"models/{MODEL}/fallback", enabled=False)


@contextmanager
def _admission_restarts(scene: Scene) -> Iterator[None]:
    scene.stack.restart(ADMISSION)
    yield


@contextmanager
def _object_store_is_away(scene: Scene) -> Iterator[None]:
    objects, aside = scene.stack.objects, scene.stack.folder / "aside"
    objects.mkdir(exist_ok=True)
    objects.rename(aside)
    objects.write_text("no folder", encoding="utf-8")
    task_id = scene.generate("renders")
    yield
    objects.unlink()
    aside.rename(objects)
    assert scene.frontend.wait(task_id)["attempt"] == 1


@contextmanager
def _memory_runs_out(scene: Scene) -> Iterator[None]:
    # The lane does it on a leaner placement: the user got the clip.
    assert scene.frontend.wait(scene.generate("runs out in decode"))["status"] == "done"
    yield


@contextmanager
def _pipeline_leaks(scene: Scene) -> Iterator[None]:
    for _ in range(5):
        assert scene.frontend.wait(scene.generate("keeps 20 MiB"))["status"] == "done"
    yield


Incident = Callable[[Scene], Any]
LIGHT: dict[str, Incident] = {
    "A lane is killed under a task": _lane_is_killed,
    "The GPU quota is denied": _quota_is_denied,
    "Overload": _is_overloaded,
    "The store is slow": _store_is_slow,
    "A cold start fails": _cold_start_fails,
    "An operator sends a model to the pool": _model_is_sent_to_the_pool,
    "Admission restarts": _admission_restarts,
    "The object store is away": _object_store_is_away,
}
WITH_TORCH: dict[str, Incident] = {"GPU memory runs out in decode": _memory_runs_out, "A pipeline leaks": _pipeline_leaks}


def test_every_row_of_the_table_is_provoked_here_and_none_else() -> None:
    assert sorted(rows()) == sorted([*LIGHT, *WITH_TORCH])


def test_alerts_of_the_table_are_made_of_its_metrics() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "observability" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    conditions = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    wrong = [row.incident for row in rows().values() if not _is_made_of(conditions[row.alert], row)]
    assert wrong == []


def _is_made_of(condition: str, row: Row) -> bool:
    # The alert of a leak is made of the event: it takes five attempts to tell a leak from a cache.
    told = f'warmlane_admission_events_total{{event="{row.event.name}"}}'
    return row.metric.name in condition or told in condition


@pytest.mark.parametrize("incident", LIGHT)
def test_incident_shows_where_the_table_says(scene: Scene, incident: str) -> None:
    _check(scene, rows(lane=LANE, model=MODEL)[incident], LIGHT[incident])


# Real pipelines on a CPU.
@pytest.mark.long
@pytest.mark.torch
@pytest.mark.parametrize("incident", WITH_TORCH)
def test_incident_of_memory_shows_where_the_table_says(torch_scene: Scene, incident: str) -> None:
    _check(torch_scene, rows(lane=LANE, model=MODEL)[incident], WITH_TORCH[incident])


def _check(scene: Scene, row: Row, incident: Incident) -> None:
    """Nothing shows it before; everything shows it while it lasts; the stack is well again afterwards."""
    scene.until(scene.ready, "the lanes are not ready")
    scene.until(lambda: row.problem not in _told(scene) or row.problem == "admission_restarted", "it is listed before it happened")
    value = _value(scene.page(row.metric.process), row.metric)
    assert row.metric.change != "is 1" or value == 0
    mark, lines = scene.console.mark(), len(scene.lines(row.log.process))
    last = max((event.sequence for event in scene.events(0)), default=0)
    with incident(scene):
        scene.until(lambda: _has_changed(scene, row.metric, value), f"the metric {row.metric} does not show it")
        scene.until(lambda: any(_is_told_by(event, row.event) for event in scene.events(last)), f"no event {row.event}")
        scene.until(lambda: any(_is_line(line, row.log) for line in scene.lines(row.log.process)[lines:]), f"no line {row.log}")
        scene.until(lambda: row.problem in scene.console.new_problems(mark), f"the console does not list {row.problem}")
    scene.until(scene.ready, "the lanes are not ready again")
    assert scene.stack.unexpected_exits() == ()


def _told(scene: Scene) -> set[str]:
    return {one["code"] for one in scene.console.latest["problems"]}


def _value(page: Page, clue: MetricClue) -> float:
    name = clue.name.removeprefix("warmlane_")
    if clue.change.startswith("has more over "):
        bound = clue.change.removeprefix("has more over ")
        return page.total(f"{name}_count", **clue.labels) - page.total(f"{name}_bucket", **clue.labels, le=bound)
    return page.total(name, **clue.labels)


def _has_changed(scene: Scene, clue: MetricClue, before: float) -> bool:
    try:
        now = _value(scene.page(clue.process), clue)
    except (httpx.HTTPError, IndexError):
        # Between two lives of the process.
        return False
    return now == float(clue.change.removeprefix("is ")) if clue.change.startswith("is ") else now > before


def _is_told_by(event: TaskEvent, clue: EventClue) -> bool:
    subjects = {event.lane_id, event.model} - {""} or {"admission"}
    phases = {one.phase for one in event.memory.out_of_memory}
    return event.event_type == clue.name and clue.subject in subjects and (not clue.out_of_memory or clue.out_of_memory in phases)


def _is_line(line: dict[str, Any], clue: LogClue) -> bool:
    return line["event"] == clue.name and all(str(line.get(name)) == value for name, value in clue.facts.items())
