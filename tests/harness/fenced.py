"""The fenced blocks of a page of documentation, as commands to run and answers to compare."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ANYTHING = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Commands, and what the page says that they print.

    Attributes:
        commands: of one block.
        document: fields that some JSON object of the output must have; None: not told.
        lines: texts that the output must have.
        heading: under which it stands.
    """

    commands: str
    document: Any = None
    lines: tuple[str, ...] = ()
    heading: str = ""


def steps(page: str) -> list[Step]:
    """Every block of commands (`sh`), each with the block of its answer (`json` or `text`) if one follows."""
    found: list[Step] = []
    blocks = list(_FENCE.finditer(page))
    for index, block in enumerate(blocks):
        if block[1] != "sh":
            continue
        after = blocks[index + 1] if index + 1 < len(blocks) else None
        headings = re.findall(r"^#+ (.+)$", page[: block.start()], re.MULTILINE)
        found.append(
            Step(
                commands=block[2],
                document=json.loads(after[2]) if after is not None and after[1] == "json" else None,
                lines=tuple(after[2].splitlines()) if after is not None and after[1] == "text" else (),
                heading=headings[-1],
            )
        )
    return found


class Shell:
    """Runs steps one after the other in a folder, as one person in one shell does: what is set stays set."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Begins with this environment beside the one that is there."""
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._state = folder / ".state"

    def run(self, step: Step, timeout_s: float = 30.0) -> str:
        """Runs the commands and compares; returns the output. Raises AssertionError."""
        script = f"set -aeuo pipefail\n[ -f {self._state} ] && . {self._state}\n{step.commands}\nexport -p > {self._state}\n"
        ran = subprocess.run(
            ["bash", "-c", script], cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        told = f"{step.heading}:\n{step.commands}\n--- printed ---\n{ran.stdout}\n{ran.stderr}"
        assert ran.returncode == 0, told
        missing = [line for line in step.lines if line.strip() not in ran.stdout]
        assert not missing, f"{missing} not in\n{told}"
        if step.document is not None:
            assert any(has(answer, step.document) for answer in _documents(ran.stdout)), f"{step.document} not in\n{told}"
        return ran.stdout


def has(answer: Any, wanted: Any) -> bool:
    """Whether every field that is wanted is there with its value; of lists, each wanted element somewhere."""
    if wanted == _ANYTHING:
        return True
    if isinstance(wanted, dict):
        return isinstance(answer, dict) and all(name in answer and has(answer[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(answer, list) and all(any(has(one, value) for one in answer) for value in wanted)
    return bool(answer == wanted)


def _documents(output: str) -> Iterator[Any]:
    """Every JSON object of the output, whatever stands between them."""
    decoder, at = json.JSONDecoder(), output.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(output, at)
            yield found
        except ValueError:
            end = at + 1
        at = output.find("{", end)
