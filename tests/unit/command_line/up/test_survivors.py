"""What is left when `warmlane up` itself is killed: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line.up.folder import DataFolder
from command_line.up.leftovers import MARK, end_leftovers
from tests.unit.command_line.up.conftest import POLITE, is_alive

# A supervisor in a process of its own, which says when its child is up.
SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from rich.console import Console
from command_line.up.folder import DataFolder
from command_line.up.screen import Screen
from command_line.up.supervisor import Supervisor
from tests.unit.command_line.up.conftest import POLITE, stand_in, until
async def main():
    folder = DataFolder(Path(sys.argv[1]))
    async with Supervisor([stand_in("one", POLITE)], folder=folder, reporter=Screen(Console())):
        await until(lambda: folder.log_tail("one", since=0, lines=1) == ["up"])
        print("up", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


def _wait(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends_s, "the condition did not come true in time"
        time.sleep(0.01)


def test_children_end_when_their_supervisor_is_killed(folder: DataFolder) -> None:
    root = Path(__file__).resolve().parents[4]
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder.root)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert supervisor.stdout is not None
    with supervisor.stdout as output:
        _wait(lambda: "up\n" in output.readline())
        child = int(folder.pid_path("one").read_text(encoding="ascii"))
        supervisor.kill()
        supervisor.wait(10)
    _wait(lambda: not is_alive(child))


def test_process_does_not_begin_when_its_supervisor_is_gone_already(tmp_path: Path) -> None:
    from command_line.up import launcher

    # Process 1 is not the parent of this test's children.
    command = [sys.executable, "-I", "-S", str(launcher.__file__), "1", sys.executable, "-c", "open('ran', 'w')"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode != 0
    assert "supervisor ended" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("marked", [True, False])
def test_process_of_an_earlier_run_is_ended_when_it_carries_the_mark_of_the_folder(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    monkeypatch.setattr("command_line.up.leftovers._GRACE_S", 0.1)
    environment = {**os.environ, MARK: str(folder.root) if marked else "elsewhere"}
    process = subprocess.Popen([sys.executable, "-c", POLITE], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        assert end_leftovers(folder.root) == (1 if marked else 0)
        assert is_alive(process.pid) == (not marked)
    finally:
        process.stdout.close()
        process.kill()
        process.wait(10)
