"""`warmlane prepare` shows what the lane's module tells, and ends as it ended."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from command_line import prepare as prepare_module
from command_line.__main__ import app
from command_line.failures import CommandError, ExitCode
from runtime.preparation import (
    Checked,
    Event,
    Failed,
    Finished,
    Note,
    Order,
    PartDocument,
    Planned,
    Progress,
    SourceDocument,
    Stage,
    Storage,
)

PLAN = Planned(
    model="anisora",
    variant="v3.2",
    storage=Storage.FP8,
    sizes="published",
    sources=(
        SourceDocument(
            source="high",
            origin="IndexTeam/Index-anisora@0123456789abcdef0123456789abcdef01234567",
            file="V3.2/high_noise_model/diffusion_pytorch_model.safetensors",
            size_bytes=28_577_912_000,
            licence="apache-2.0",
        ),
    ),
    parts=(PartDocument(folder="transformer", tensors=1095, copied=695, size_bytes=14_520_000_000),),
    ignored=("text_encoders.spiece_model",),
)
MANIFEST = {"model": "anisora", "variant": "v3.2", "storage": "fp8"}
WRITING = Progress(stage=Stage.WRITE, item="transformer/diffusion_pytorch_model.safetensors", done_bytes=5, total_bytes=14_520_000_000)


def finished(folder: Path, *, was_there: bool = False) -> Finished:
    """The last event of a run that went well."""
    return Finished(folder=folder, was_there=was_there, manifest=MANIFEST, peak_memory_bytes=700 * 1024**2)


Scripted = Callable[..., list[Order]]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Puts a process that tells given events in the place of the lane's module; gives the orders that it got."""

    def script(*events: Event | str, ending: str = "sys.exit(0)") -> list[Order]:
        orders: list[Order] = []
        lines = [event if isinstance(event, str) else event.model_dump_json() for event in events]

        def command(order: Order) -> list[str]:
            orders.append(order)
            program = f"import os, sys\nfor line in {lines!r}: print(line, flush=True)\n{ending}"
            return [sys.executable, "-I", "-S", "-c", program]

        monkeypatch.setattr(prepare_module, "module_command", command)
        return orders

    return script


def call(*arguments: str) -> int:
    """Runs `warmlane` with these; returns the exit code, or raises what the entry turns into one."""
    try:
        result: Any = app(["prepare", *arguments], standalone_mode=False)
    except typer.Exit as exited:
        return exited.exit_code
    return int(result or 0)


def test_plan_progress_and_folder_are_shown_when_all_goes_well(
    scripted: Scripted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    scripted(PLAN, Note(text="going on: 1.00 of 34.00 GB are written already"), WRITING, finished(tmp_path / "anisora"))

    assert call("anisora", "--models-dir", str(tmp_path)) == 0

    shown = capsys.readouterr().out
    for text in (
        "anisora v3.2, stored as fp8",
        "V3.2/high_noise_model/diffusion_pytorch_model.safetensors",
        "28.58",
        "apache-2.0",
        "IndexTeam/Index-anisora@0123456789abcdef",
        "1095",
        "14.52",
        "left out knowingly: text_encoders.spiece_model",
        "going on: 1.00 of 34.00 GB",
        "writing the weights: 14.52 GB",
        f"{tmp_path / 'anisora'} is whole",
        "700 MiB",
        "warmlane up --profile a10g",
    ):
        assert text in shown


def test_the_order_says_what_the_options_said(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    orders = scripted(finished(tmp_path))
    digest = "ab" * 32

    call("phr00t", "--models-dir", "here", "--storage", "bf16", "--variant", "mega-v11", "--checkpoint", "file.safetensors",
         "--base", "hub:Wan-AI/Base@v1:sub/folder", "--sha256", f"checkpoint={digest}", "--replace", "--keep-downloads")  # fmt: skip
    call("anisora", "--high", "hub:a/b", "--low", "hub:a/b:low.safetensors", "--t2v", "--check", "--sha256", f"t2v-low={digest}")

    first, second = orders
    assert (first.action, first.model, first.storage, first.variant) == ("prepare", "phr00t", "bf16", "mega-v11")
    assert first.models_dir == tmp_path / "here"
    assert first.sources["checkpoint"].model_dump(exclude_none=True) == {"path": tmp_path / "file.safetensors", "sha256": digest}
    assert first.sources["base"].model_dump(exclude_none=True) == {"repository": "Wan-AI/Base", "revision": "v1", "file": "sub/folder"}
    assert (first.replace, first.keep_downloads, first.with_t2v) == (True, True, False)
    assert (second.action, second.with_t2v) == ("check", True)
    assert second.models_dir == tmp_path / "warmlane-data" / "models"
    assert second.sources["high"].model_dump(exclude_none=True) == {"repository": "a/b"}
    assert second.sources["low"].model_dump(exclude_none=True) == {"repository": "a/b", "file": "low.safetensors"}
    assert second.sources["t2v-low"].model_dump(exclude_none=True) == {"sha256": digest}


def test_every_event_is_a_line_when_json_is_asked(scripted: Scripted, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scripted(PLAN, WRITING, finished(tmp_path))

    call("anisora", "--json")

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["planned", "progress", "finished"]


@pytest.mark.parametrize(
    ("cause", "ending", "exit_code"),
    [("asked", "sys.exit(2)", ExitCode.USAGE), ("wrong_source", "sys.exit(1)", ExitCode.FAILED), ("hub", "sys.exit(1)", ExitCode.FAILED)],
)
def test_the_sentence_and_the_code_are_the_module_s_when_it_fails(scripted: Scripted, cause: str, ending: str, exit_code: ExitCode) -> None:
    scripted(Failed(cause=cause, text="what is wrong", details=("one", "two")), ending=ending)

    with pytest.raises(CommandError, match="what is wrong") as raised:
        call("anisora")

    assert raised.value.exit_code == exit_code


def test_differences_are_named_and_the_code_is_1_when_a_folder_was_changed(
    scripted: Scripted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = Checked(folder=tmp_path, files=9, size_bytes=34 * 10**9, differences=(), manifest=MANIFEST)
    scripted(whole)
    assert call("anisora", "--check") == 0
    assert "is what its manifest says: 9 files, 34.00 GB" in capsys.readouterr().out
    scripted(whole.model_copy(update={"differences": ("vae/config.json is missing",)}), ending="sys.exit(1)")

    assert call("anisora", "--check") == ExitCode.FAILED

    assert "vae/config.json is missing" in capsys.readouterr().out


def test_an_unexpected_end_is_told_when_the_module_dies(scripted: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    scripted(PLAN, "a library prints", ending=f"os.kill(os.getpid(), {signal.SIGKILL.value})")
    with pytest.raises(CommandError, match=r"ended unexpectedly \(signal 9\). What is done is kept") as raised:
        call("anisora")
    assert raised.value.exit_code == ExitCode.FAILED
    assert "a library prints" in capsys.readouterr().err

    scripted(PLAN, ending="sys.exit(130)")
    with pytest.raises(CommandError, match=r"stopped. What is done is kept") as raised:
        call("anisora")
    assert raised.value.exit_code == ExitCode.INTERRUPTED


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("wan",), "MODEL must be one of anisora, phr00t, not wan"),
        (("anisora", "--high", "hub:one"), "--high hub:one: must be a path, or hub:OWNER/NAME"),
        (("anisora", "--sha256", "high=12"), "--sha256 high=12: must be NAME=HEX"),
        (("anisora", "--sha256", f"middle={'0' * 64}"), "with one of high, low"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(scripted: Scripted, arguments: tuple[str, ...], sentence: str) -> None:
    orders = scripted()

    with pytest.raises(CommandError, match=sentence) as raised:
        call(*arguments)

    assert raised.value.exit_code == ExitCode.USAGE
    assert orders == []
