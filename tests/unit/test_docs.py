"""Pages that are made from code are what the code makes."""

from __future__ import annotations

import runpy
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_state_diagram_is_what_the_table_of_transitions_makes() -> None:
    made = runpy.run_path(str(_DOCS / "task_states.py"))["page"]()
    assert (_DOCS / "task-states.md").read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/task_states.py"


def test_reference_of_metrics_is_what_the_catalogues_make() -> None:
    made = runpy.run_path(str(_DOCS / "metrics.py"))["page"]()
    assert (_DOCS / "reference" / "metrics.md").read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/metrics.py"
