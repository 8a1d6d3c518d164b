"""Pages that are made from code are what the code makes."""

from __future__ import annotations

import runpy
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_state_diagram_is_what_the_table_of_transitions_makes() -> None:
    made = runpy.run_path(str(_DOCS / "task_states.py"))["page"]()
    assert (_DOCS / "task-states.md").read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/task_states.py"
