"""Pages that are made from code are what the code makes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from command_line.plan_rows import Asked, make_rows
from runtime.fit.gpus import GPUS, baseline_models

_DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_state_diagram_is_what_the_table_of_transitions_makes() -> None:
    made = runpy.run_path(str(_DOCS / "task_states.py"))["page"]()
    assert (_DOCS / "task-states.md").read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/task_states.py"


def test_placements_peaks_and_times_of_the_a10g_page_are_those_that_plan_predicts() -> None:
    page = (_DOCS / "howto" / "first-clip-on-an-a10g.md").read_text(encoding="utf-8")
    told = re.findall(
        r"\| (\d+)x(\d+), (\d+) frames \| `(\w+)`, ([\d.]+) GiB \| (\d+) min (\d+) s \| `(\w+)`, ([\d.]+) GiB \| (\d+) min (\d+) s \|", page
    )
    assert len(told) == 6
    for width, height, frames, *figures in told:
        asked = Asked(model=None, mode="i2v", size=(int(width), int(height)), frames=int(frames))
        for traced, (placement, peak, minutes, seconds) in zip(baseline_models(), (figures[:4], figures[4:]), strict=True):
            (row,) = make_rows(traced.ladder("fp8"), GPUS["A10G"], asked)
            assert row.choice is not None
            assert row.least_s is not None
            assert (row.choice.rung.placement, f"{row.choice.peak_bytes / 1024**3:.1f}") == (placement, peak)
            assert int(row.least_s) == 60 * int(minutes) + int(seconds)


def test_reference_of_metrics_is_what_the_catalogues_make() -> None:
    made = runpy.run_path(str(_DOCS / "metrics.py"))["page"]()
    assert (_DOCS / "reference" / "metrics.md").read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/metrics.py"


def test_reference_of_settings_is_what_the_classes_make() -> None:
    made = runpy.run_path(str(_DOCS / "settings.py"))
    told = "run: .venv/bin/python docs/settings.py"
    assert (_DOCS / "reference" / "settings.md").read_text(encoding="utf-8") == made["page"](), told
    # What `warmlane doctor` knows.
    assert made["KNOWN"].read_text(encoding="utf-8") == made["known"](), told


def test_example_of_settings_has_the_default_that_the_reference_tells() -> None:
    example = dict(re.findall(r"^#(WARMLANE_[A-Z0-9_]+)=(.*)$", (_DOCS.parent / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    rows = runpy.run_path(str(_DOCS / "settings.py"))["settings"]()
    wrong = []
    for row in rows:
        values = set(row.defaults.values())
        if len(values) > 1 or "WORKING_FOLDER" in (default := values.pop()):
            # It depends on the process or the folder: a comment tells it.
            default = ""
        if example.get(row.variable) != default.strip("`"):
            wrong.append(f"{row.variable}: {example.get(row.variable)!r} is not {default!r}")
    assert wrong == []


def test_reference_of_the_command_line_is_what_the_commands_make() -> None:
    made = runpy.run_path(str(_DOCS / "commands.py"))["page"]()
    assert (_DOCS / "reference" / "command-line.md").read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/commands.py"


def test_diagrams_of_the_architecture_are_what_the_code_makes() -> None:
    text = (_DOCS / "architecture" / "README.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(_DOCS / "architecture.py"))["page"](text) == text, "run: .venv/bin/python docs/architecture.py"
