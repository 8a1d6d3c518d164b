"""The rows of docs/reference/incidents.md, as what a test can look for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "incidents.md"
_SERIES = re.compile(r"(?P<name>warmlane_[a-z_]+)(?:\{(?P<labels>[^}]*)\})?")
_LABEL = re.compile(r'([a-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricClue:
    """A series of a process: it `rises`, is a value (`is 1`), or a histogram `has more over` a bound."""

    process: str
    name: str
    labels: Mapping[str, str]
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventClue:
    """An event of a lane or a model, or of admission; with a phase that its memory record names as run out of memory."""

    name: str
    subject: str
    out_of_memory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogClue:
    """A line of a process with these facts."""

    process: str
    name: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One incident."""

    incident: str
    metric: MetricClue
    event: EventClue
    log: LogClue
    problem: str
    alert: str


def rows(*, lane: str = "LANE", model: str = "MODEL") -> dict[str, Row]:
    """Every row by its incident, for this lane and model."""
    found: dict[str, Row] = {}
    for line in _PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.replace("LANE", lane).replace("MODEL", model).strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == 6 and "`" in line:
            row = _row(cells)
            found[row.incident] = row
    return found


def _row(cells: list[str]) -> Row:
    incident, metric, event, log, problem, alert = cells
    return Row(
        incident=incident,
        metric=_metric(metric),
        event=_event(event),
        log=_log(log),
        problem=_only(problem),
        alert=_only(alert),
    )


def _codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _only(cell: str) -> str:
    (code,) = _codes(cell)
    return code


def _metric(cell: str) -> MetricClue:
    process, series = _codes(cell)
    match = _SERIES.fullmatch(series)
    assert match is not None, series
    change = cell.rpartition("`")[2].strip()
    assert re.fullmatch(r"rises|is [0-9]+|has more over [0-9.]+", change), cell
    return MetricClue(process=process, name=match["name"], labels=dict(_LABEL.findall(match["labels"] or "")), change=change)


def _event(cell: str) -> EventClue:
    name, subject, *memory = _codes(cell)
    assert not memory or memory[0] == "out_of_memory", cell
    return EventClue(name=name, subject=subject, out_of_memory=memory[1] if memory else "")


def _log(cell: str) -> LogClue:
    process, name, *facts = _codes(cell)
    return LogClue(process=process, name=name, facts=dict(fact.split("=", 1) for fact in facts))
