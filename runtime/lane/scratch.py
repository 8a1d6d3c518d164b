"""Temporary folders of pipeline processes: one per process, removed after it, however it ended."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

# Lane ids have no dots, so no lane takes another one's folder for its own.
_PREFIX = "warmlane."


def make_folder(lane: str) -> Path:
    """Makes a folder for one process of this agent; its name says whose it is. Raises OSError."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{lane}.{os.getpid()}."))


def remove_folder(folder: Path) -> None:
    """Removes it with all that is in it, as far as it can. Blocks."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(lane: str) -> None:
    """Removes what earlier agents of this lane left, which died before they could. Blocks; call it before any process is started."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{lane}.*"):
        parts = folder.name.removeprefix(f"{_PREFIX}{lane}.").split(".")
        if parts[0].isascii() and parts[0].isdigit() and _is_abandoned(int(parts[0])) and not folder.is_symlink():
            remove_folder(folder)


def _is_abandoned(agent_pid: int) -> bool:
    """Whether that agent is gone. In containers the next agent often has the same id as the last one."""
    return agent_pid == os.getpid() or not psutil.pid_exists(agent_pid)
