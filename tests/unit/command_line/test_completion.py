"""What TAB offers, from a stack that runs, hangs, refuses or is away."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from warmlane.admission.v1 import admission_service_pb2 as pb

from command_line import completion
from command_line.__main__ import app
from command_line.completion import complete_lane, complete_model, complete_task
from tests.unit.command_line.conftest import Served
from tests.unit.command_line.doubles import TASK_ID, AdmissionDouble, made_task


def _offered(runner: CliRunner, line: str) -> dict[str, str]:
    """What zsh is told for a line whose last word is typed so far."""
    environment = {"_WARMLANE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"warmlane {line}"}
    ran = runner.invoke(app, [], prog_name="warmlane", env=environment)
    assert ran.stderr == ""
    # _arguments '*: :(("word":"told" …))'
    # Colons within are escaped.
    return dict(re.findall(r'"([^"]+)"(?::"([^"]*)")?', ran.stdout.replace(r"\\:", ":")))


@pytest.fixture(autouse=True)
def _away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No stack runs on the folder, and none is named, unless a test does it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WARMLANE_ADMISSION_ADDRESS", raising=False)


def test_lanes_of_the_running_stack_are_offered(runner: CliRunner, threaded_admission: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    threaded_admission.script.snapshot.lanes.add(lane_id="lane-anisora", models=["anisora"])
    threaded_admission.script.snapshot.lanes.add(lane_id="pool", models=["anisora", "phr00t"])
    monkeypatch.setenv("WARMLANE_ADMISSION_ADDRESS", threaded_admission.address)
    assert _offered(runner, "drain ") == {"lane-anisora": "anisora", "pool": "anisora and phr00t"}
    assert _offered(runner, "drain la") == {"lane-anisora": "anisora"}


def test_address_of_the_line_is_asked_when_it_names_one(runner: CliRunner, threaded_admission: Served) -> None:
    threaded_admission.script.snapshot.lanes.add(lane_id="lane-x", models=["phr00t"])
    assert _offered(runner, f"events --address {threaded_admission.address} --lane ") == {"lane-x": "phr00t"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[pb.ListTasksRequest]:
    """The double has one task and one model of its own; what it was asked for."""
    requests: list[pb.ListTasksRequest] = []

    async def list_tasks(self: AdmissionDouble, request: pb.ListTasksRequest, context: object) -> pb.ListTasksResponse:
        requests.append(request)
        return pb.ListTasksResponse(tasks=[made_task()], total=1)

    async def list_models(self: AdmissionDouble, request: pb.ListModelsRequest, context: object) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(id="another", name="Another")])

    monkeypatch.setattr(AdmissionDouble, "ListTasks", list_tasks)
    monkeypatch.setattr(AdmissionDouble, "ListModels", list_models)
    return requests


def test_newest_tasks_are_offered_and_only_unfinished_ones_to_cancel(
    runner: CliRunner, asked: list[pb.ListTasksRequest], threaded_admission: Served
) -> None:
    for command in ("status", "cancel"):
        offered = _offered(runner, f"{command} --address {threaded_admission.address} ")
        assert offered == {TASK_ID: "anisora, queued, 2026-01-01T00:00:00Z"}
    assert [len(request.states) for request in asked] == [0, 2]


def test_models_are_those_of_the_stack_or_else_of_the_program(
    runner: CliRunner, asked: list[pb.ListTasksRequest], threaded_admission: Served
) -> None:
    assert set(_offered(runner, f"submit --address {threaded_admission.address} --model ")) == {"another"}
    assert set(_offered(runner, "submit --model ")) == {"anisora", "phr00t"}


@pytest.mark.parametrize(
    ("line", "word"), [("submit --mode ar", "arbitrary_frame"), ("up --without lane-p", "lane-phr00t"), ("plan --gpu T", "T4")]
)
def test_words_that_never_change_are_offered_without_a_stack(runner: CliRunner, line: str, word: str) -> None:
    assert set(_offered(runner, line)) == {word}


@pytest.mark.parametrize("line", ["status ", "cancel ", "drain ", "events --task "])
def test_nothing_is_offered_or_said_when_no_stack_answers(runner: CliRunner, line: str) -> None:
    assert _offered(runner, line) == {}


def test_nothing_is_offered_when_admission_refuses_or_settings_are_wrong(
    threaded_admission: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = typer.Context(typer.main.get_command(app))
    context.params["address"] = threaded_admission.address
    # The double refuses ListTasks with an error that nobody foresaw.
    assert complete_task(context, "") == []
    monkeypatch.setenv("WARMLANE_OPERATOR_TOKEN", "short")
    assert complete_lane(context, "") == []
    assert [word for word, _ in complete_model(context, "p")] == ["phr00t"]


@pytest.fixture
def _hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(self: AdmissionDouble, request: pb.ListTasksRequest, context: object) -> pb.ListTasksResponse:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(AdmissionDouble, "ListTasks", hangs)
    monkeypatch.setattr(completion, "_PATIENCE_S", 0.2)


@pytest.mark.usefixtures("_hanging")
def test_offers_come_in_time_when_admission_hangs(request: pytest.FixtureRequest) -> None:
    # Served after the double's method was replaced: servers take methods when they start.
    address = request.getfixturevalue("threaded_admission").address
    context = typer.Context(typer.main.get_command(app))
    context.params["address"] = address
    started_s = time.monotonic()
    assert complete_task(context, "") == []
    # Far below any other timeout of a call; the machine may be busy.
    assert time.monotonic() - started_s < 8
