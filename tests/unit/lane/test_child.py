"""The pipeline's process, as far as it can be run inside a test: what it says last and how the agent sees its end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import runtime.lane.child
from lane_anisora.config import Settings
from runtime.lane.child import Commands, run
from runtime.lane.child_protocol import (
    REPLACE_EXIT_CODE,
    Command,
    LoadFailed,
    Loading,
    Render,
    RenderEnded,
    ResidentChanged,
    Shutdown,
    Start,
    Started,
    decode_event,
    encode_command,
    encode_event,
)
from runtime.lane.convert import LaneIdentity
from runtime.lane.ladders import Ladders
from runtime.lane.main import _worker_settings
from runtime.lane.renderer import Catalog, LoadSettings
from runtime.lane.start_failure import StartCause
from runtime.lane.state import Attempt
from runtime.lane.worker import _start_of
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.rules.parameters import to_parameters
from tests.harness.lane_memory import FakeMemory

WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Of the socket between the two."""

    agent: socket.socket
    process: socket.socket


@pytest.fixture
def ends() -> Iterator[Ends]:
    """Both open."""
    agent, process = socket.socketpair()
    agent.settimeout(WAIT_S)
    with agent, process:
        yield Ends(agent=agent, process=process)


def ended_in(folder: Path, ends: Ends, memory: FakeMemory, monkeypatch: pytest.MonkeyPatch) -> tuple[int, RenderEnded]:
    """Runs a process that is given one attempt; its exit code and how the attempt ended."""
    start = Start(
        catalog="tests.harness.lane_catalog:catalog",
        profile="tiny",
        models_dir=folder,
        device="cpu",
        object_store_url=(folder / "objects").as_uri(),
        warm_model="",
    )
    raw = {"model": "phr00t", "prompt": "raises", "width": 256, "height": 256, "num_frames": 5}
    parameters = to_parameters(effective(check_request(raw), seed=1))
    render = Render(attempt=Attempt(task_id="a", number=1), parameters=parameters, artifact_prefix="results/a/1/")
    given: list[Command] = [start, render, Shutdown()]
    commands = Commands(ends.process)
    monkeypatch.setattr(commands, "next", lambda *_: given.pop(0))
    monkeypatch.setattr(runtime.lane.child, "open_device", lambda name, **figures: memory)
    code = run(commands)
    commands.end()
    with ends.agent.makefile("rb") as lines:
        (event,) = [event for line in lines if isinstance(event := decode_event(line), RenderEnded)]
    return code, event


def test_the_end_says_that_the_process_leaves_when_the_device_is_lost(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = FakeMemory()
    memory.is_lost = True
    code, event = ended_in(tmp_path, ends, memory, monkeypatch)
    assert code == REPLACE_EXIT_CODE
    assert event.leaving


def test_the_process_stays_when_only_the_render_failed(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    code, event = ended_in(tmp_path, ends, FakeMemory(), monkeypatch)
    assert code == 0
    assert not event.leaving


def test_the_agent_sees_the_end_at_once_when_the_last_message_was_sent(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    # The thread that reads held the socket open, so the agent saw the end only when the process was gone, and gave it work until then.
    gone = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: gone.set())
    commands = Commands(ends.process)
    commands.start()
    commands.tell(Started(device="cpu"))
    commands.end()
    with ends.agent.makefile("rb") as lines:
        assert lines.read() == encode_event(Started(device="cpu"))
    # The agent can still speak: it does not lose what it has not read yet.
    ends.agent.sendall(encode_command(Shutdown()))
    assert commands.next() == Shutdown()
    ends.agent.shutdown(socket.SHUT_WR)
    assert gone.wait(WAIT_S)


def test_limits_and_ladders_are_told_before_anything_is_loaded_when_the_process_starts(
    tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start(
        catalog="tests.harness.lane_catalog:catalog",
        profile="tiny",
        models_dir=tmp_path,
        device="cpu",
        object_store_url=(tmp_path / "objects").as_uri(),
        warm_model="anisora",
        memory_budget_bytes=123,
        memory_margin_bytes=4,
        pinned_limit_bytes=5,
        attention_backend="native",
    )
    given: list[Command] = [start, Shutdown()]
    commands = Commands(ends.process)
    monkeypatch.setattr(commands, "next", lambda *_: given.pop(0))
    asked: list[dict[str, object]] = []

    def open_device(name: str, **figures: object) -> FakeMemory:
        asked.append(figures)
        return FakeMemory(total_bytes=123)

    monkeypatch.setattr(runtime.lane.child, "open_device", open_device)
    backends: list[str] = []
    ladders = Ladders

    def measuring(catalog: Catalog, settings: LoadSettings) -> Ladders:
        backends.append(settings.attention_backend)
        return ladders(catalog, settings)

    monkeypatch.setattr(runtime.lane.child, "Ladders", measuring)
    assert run(commands) == 0
    commands.end()
    with ends.agent.makefile("rb") as lines:
        told = [decode_event(line) for line in lines]
    stages = [event.progress.stage for event in told if isinstance(event, Loading)]
    assert stages == [
        "importing the libraries",
        "opening the device",
        "measuring what the placements need",
        "making room in host memory",
        "reading anisora",
    ]
    events = [event for event in told if not isinstance(event, Loading)]
    started = events[0]
    assert isinstance(started, Started)
    assert started.memory is not None
    assert started.memory.limits.total_bytes == 123
    assert [ladder.model for ladder in started.memory.ladders] == ["anisora", "phr00t"]
    assert events[1:] == [ResidentChanged(model="anisora"), ResidentChanged(model="")]
    assert backends == ["native"]
    assert asked == [{"budget_bytes": 123, "margin_bytes": 4, "pinned_limit_bytes": 5}]


def start_of(folder: Path, **changes: object) -> Start:
    """Of a lane that keeps anisora warm."""
    fields: dict[str, object] = {
        "catalog": "tests.harness.lane_catalog:catalog",
        "profile": "tiny",
        "models_dir": folder,
        "device": "cpu",
        "object_store_url": (folder / "objects").as_uri(),
        "warm_model": "anisora",
    }
    return Start(**(fields | changes))  # type: ignore[arg-type]


def failed_with(start: Start, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> LoadFailed:
    """Why the process says that it could not become warm; it has ended."""
    commands = Commands(ends.process)
    monkeypatch.setattr(commands, "next", lambda *_: start)
    assert run(commands) == 1
    commands.end()
    with ends.agent.makefile("rb") as lines:
        (failed,) = [event for line in lines if isinstance(event := decode_event(line), LoadFailed)]
    return failed


@pytest.mark.parametrize(
    ("file", "cause", "reason"),
    [
        ("missing", StartCause.WEIGHTS_MISSING, "ModelFilesMissingError: no such folder"),
        ("damaged", StartCause.WEIGHTS_UNUSABLE, "ModelFilesUnusableError: the header is cut off"),
        ("broken", StartCause.OTHER, "RuntimeError: the weights are broken"),
    ],
)
def test_the_cause_is_told_when_the_model_cannot_be_loaded(
    tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch, file: str, cause: StartCause, reason: str
) -> None:
    (tmp_path / file).touch()
    assert failed_with(start_of(tmp_path), ends, monkeypatch) == LoadFailed(model="anisora", reason=reason, cause=cause)


def test_the_device_is_the_cause_when_it_cannot_be_opened(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = failed_with(start_of(tmp_path, device="abacus"), ends, monkeypatch)
    assert failed.cause is StartCause.DEVICE
    assert "not 'abacus'" in failed.reason


def test_the_url_of_the_object_store_is_not_told_when_it_cannot_be_opened(
    tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = failed_with(start_of(tmp_path, object_store_url="nothing://key:secret@host/bucket"), ends, monkeypatch)
    assert failed.cause is StartCause.OTHER
    assert failed.reason.startswith("the object store cannot be opened (")
    assert "secret" not in failed.reason


def test_every_setting_of_the_pipeline_reaches_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "memory_budget_bytes": 1,
        "memory_margin_bytes": 2,
        "pinned_limit_bytes": 3,
        "attention_backend": "native",
        "compile_blocks": True,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"WARMLANE_{name.upper()}", str(value))
    identity = LaneIdentity(lane_id="lane-test", boot_id="boot", is_dedicated=True, models=("anisora",), catalog="m:c")

    start = _start_of(_worker_settings(Settings(), identity))

    assert {name: getattr(start, name) for name in values} == values
    assert (start.catalog, start.warm_model) == ("m:c", "anisora")
