"""What a check is: asked about a case, it looks with the probes it is given and says what it found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from command_line.doctor.probes import Probes


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but worse than it could, or not for long."""
    FAILED = "failed"
    """What was asked for does not work so."""
    SKIPPED = "skipped"
    """There is nothing to look at here; `found` says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look gave.

    Attributes:
        name: of what was looked at; stable.
        found: what there is, in a sentence; never a key, a token or a password.
        advice: what to do; empty when there is nothing to do.
    """

    name: str
    outcome: Outcome
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is looked at.

    Attributes:
        profile: `tiny` or `a10g`.
        data_dir: of `warmlane up`.
        models_dir: holds a folder for each model.
        address: `host:port` of admission.
        is_named: the address was named, by option or environment; then somebody should answer there.
        ports: of the stack that runs on the data folder, by the names of `run/ports.json`; empty when none does.
        pids: of that stack's processes, by name.
        environment: of the command.
    """

    profile: str
    data_dir: Path
    models_dir: Path
    address: str
    is_named: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_tiny(self) -> bool:
        """No GPU and no weights are needed."""
        return self.profile == "tiny"

    @property
    def should_answer(self) -> bool:
        """Somebody said where admission is, or a stack runs here."""
        return self.is_named or bool(self.ports)


class Check(Protocol):
    """Looks at one thing. It never changes anything but a temporary file or object of its own."""

    def __call__(self, case: Case, probes: Probes) -> Iterable[Finding]:
        """What it found. A ProbeError of a probe is a finding too."""
        ...


def ok(name: str, found: str, advice: str = "") -> Finding:
    """It is as it should be."""
    return Finding(name=name, outcome=Outcome.OK, found=found, advice=advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """It could be better."""
    return Finding(name=name, outcome=Outcome.WARNING, found=found, advice=advice)


def failed(name: str, found: str, advice: str) -> Finding:
    """It does not work so."""
    return Finding(name=name, outcome=Outcome.FAILED, found=found, advice=advice)


def skipped(name: str, found: str) -> Finding:
    """There was nothing to look at."""
    return Finding(name=name, outcome=Outcome.SKIPPED, found=found)
