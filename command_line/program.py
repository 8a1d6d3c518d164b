"""How this program is called in the caller's shell, for commands that are printed to be pasted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def program() -> list[str]:
    """`warmlane` as the caller's shell finds it: by its name where that is this one, else by its path."""
    own = Path(sys.executable).parent / "warmlane"
    found = shutil.which("warmlane")
    if found is not None and Path(found).resolve() == own.resolve():
        return ["warmlane"]
    if not own.exists():
        return [sys.executable, "-m", "command_line"]
    here = Path.cwd()
    return [str(own.relative_to(here)) if own.is_relative_to(here) else str(own)]
