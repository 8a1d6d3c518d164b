"""`warmlane doctor`: the command, its table, its JSON and its exit code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from command_line.address import DEFAULT_DATA_DIR, find_admission
from command_line.doctor.examination import examine, real_probes, worst
from command_line.doctor.finding import Case, Finding, Outcome
from command_line.doctor.probes import Probes
from command_line.failures import ExitCode
from command_line.options import Address, AsJson
from command_line.tables import output_console
from command_line.up.folder import DataFolder, read_ports
from command_line.up.ports import owner_of

EPILOG = """Examples:

warmlane doctor

warmlane doctor --profile a10g --models-dir /data/models

warmlane doctor --address admission.example.org:50051 --json

Exit codes: 0 nothing failed (there may be warnings); 1 a check failed; 2 what was asked is wrong.
"""

_STYLES = {Outcome.OK: "green", Outcome.WARNING: "yellow", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}


class Profile(StrEnum):
    """For which the machine is looked at."""

    TINY = "tiny"
    A10G = "a10g"


def doctor(
    *,
    profile: Annotated[
        Profile, typer.Option(envvar="WARMLANE_PROFILE", help="What the machine is to run; tiny needs no GPU.")
    ] = Profile.TINY,
    data_dir: Annotated[Path, typer.Option(help="Folder of the stack that runs here, or will.")] = DEFAULT_DATA_DIR,
    models_dir: Annotated[
        Path | None, typer.Option(envvar="WARMLANE_MODELS_DIR", help="Holds a folder for each model.", show_default="models in --data-dir")
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Look at this machine and what runs on it: versions, GPU, memory, disks, weights, ports, clocks, reachability, TLS and settings.

    Nothing is changed. Each line says what was found; where something is wrong, the next one says what to do.
    """
    case = make_case(profile.value, data_dir, models_dir, address, os.environ)
    findings = _examined(case, real_probes(), as_json=as_json)
    if as_json:
        typer.echo(to_json(findings))
    raise typer.Exit(ExitCode.FAILED if worst(findings) is Outcome.FAILED else ExitCode.OK)


def make_case(profile: str, data_dir: Path, models_dir: Path | None, address: str | None, environment: Mapping[str, str]) -> Case:
    """What the options mean on this machine."""
    ports = read_ports(data_dir)
    return Case(
        profile=profile,
        data_dir=data_dir,
        models_dir=models_dir or data_dir / "models",
        address=find_admission(address, data_dir),
        is_named=address is not None,
        ports=ports,
        pids=_pids(DataFolder(data_dir), {owner_of(name) for name in ports}),
        environment=dict(environment),
    )


def to_json(findings: Sequence[Finding]) -> str:
    """All of them, and how it stands with all together."""
    return json.dumps({"outcome": worst(findings), "checks": [asdict(one) for one in findings]}, indent=2, ensure_ascii=False)


def _examined(case: Case, probes: Probes, *, as_json: bool) -> list[Finding]:
    """Shows each finding as it comes, unless JSON is wanted, and what is looked at meanwhile where somebody sits before it."""
    console, progress = output_console(), Console(stderr=True)
    findings: list[Finding] = []
    status = progress.status("looking") if progress.is_terminal and not as_json else None
    with status or nullcontext():
        for finding in examine(case, probes, on_check=lambda name: status.update(f"looking at {name}") if status else None):
            findings.append(finding)
            if not as_json:
                _print(console, finding)
    if not as_json:
        _print_sum(console, findings)
    return findings


def _print(console: Console, finding: Finding) -> None:
    line = Text.assemble((f"{finding.outcome:<8}", _STYLES[finding.outcome]), f"  {finding.name}: {finding.found}")
    console.print(line, soft_wrap=True)
    if finding.advice:
        console.print(Text(f"{'':<10}-> {finding.advice}"), soft_wrap=True)


def _print_sum(console: Console, findings: Sequence[Finding]) -> None:
    counts = {outcome: sum(one.outcome is outcome for one in findings) for outcome in Outcome}
    console.print(Text(", ".join(f"{count} {outcome}" for outcome, count in counts.items())), soft_wrap=True)


def _pids(folder: DataFolder, processes: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in processes:
        try:
            found[name] = int(folder.pid_path(name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return found
