"""Stand-in processes and a reporter that remembers, for tests of the supervisor."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from command_line.up.folder import DataFolder
from command_line.up.processes import Process, StopStage

# Says that it is up, and stops cleanly when asked.
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
while True: time.sleep(60)
"""
# Never stops by itself.
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True: time.sleep(60)
"""
# Cannot live.
DOOMED = """
import sys
print("the reason why", flush=True)
sys.exit(3)
"""
# Starts a process of its own in its group, prints its id, and ends itself.
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
sys.exit(4)
"""


@dataclass
class Recorder:
    """Remembers what a supervisor reported; implements `supervisor.Reporter`."""

    started: list[tuple[str, int]] = field(default_factory=list)
    ended: list[tuple[str, str, float]] = field(default_factory=list)
    tails: list[tuple[int, list[str]]] = field(default_factory=list)
    stopped: list[tuple[str, bool]] = field(default_factory=list)

    def process_started(self, name: str, pid: int) -> None:
        """Remembers."""
        self.started.append((name, pid))

    def process_ended(self, name: str, how: str, *, restart_in_s: float) -> None:
        """Remembers."""
        self.ended.append((name, how, restart_in_s))

    def process_keeps_ending(self, name: str, *, times: int, log_tail: Sequence[str], log_path: str) -> None:
        """Remembers."""
        assert log_path.endswith(f"{name}.log")
        self.tails.append((times, list(log_tail)))

    def process_stopped(self, name: str, how: str, *, killed: bool) -> None:
        """Remembers."""
        assert how
        self.stopped.append((name, killed))


@pytest.fixture
def recorder() -> Recorder:
    """A reporter that remembers."""
    return Recorder()


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """A data folder that exists."""
    made = DataFolder(tmp_path / "data")
    made.create()
    return made


def stand_in(name: str, code: str, *, stage: StopStage = StopStage.WORKER, grace_s: float = 5.0) -> Process:
    """A process of the table that runs a few lines of Python."""
    command = (sys.executable, "-I", "-S", "-c", code)
    return Process(name=name, command=command, environment=dict(os.environ), stop_stage=stage, stop_grace_s=grace_s)


async def until(condition: Callable[[], bool], *, deadline_s: float = 10.0) -> None:
    """Returns when the condition holds; fails when it does not within the deadline."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + deadline_s
    while not condition():
        assert loop.time() < ends_s, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
