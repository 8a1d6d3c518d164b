"""One started process: its group, its end, and how it is signalled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from command_line.up import launcher

_LAUNCHER = str(Path(launcher.__file__).resolve())
_REAP_TIMEOUT_S = 5.0


class Child:
    """A process with a group of its own. Its owner makes it on the event loop's thread and awaits `wait` exactly once."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str], log_path: Path) -> None:
        """Starts the command, its output appended to the log. Raises OSError when it cannot be started."""
        # `-I -S`: the launcher needs the standard library only, and starts in milliseconds without the rest.
        arguments = [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), *command]
        with log_path.open("ab") as log:
            self.log_offset = log.tell()
            self._popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
            )
        self.pid = self._popen.pid
        # A descriptor names this very process: a signal through it can never reach another one that got the same id.
        self._pidfd = os.pidfd_open(self.pid)

    async def wait(self) -> int:
        """Returns how it ended (exit code, or minus the signal), after everything left of its group was killed."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._pidfd)
        # Before it is reaped its id cannot be given to anybody else, so this kills only what it left behind.
        self._kill_group()
        os.close(self._pidfd)
        self._pidfd = -1
        return self._popen.wait(timeout=_REAP_TIMEOUT_S)

    def terminate(self) -> None:
        """Asks it to stop: SIGTERM to the process itself, which stops its own children."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and its group at once."""
        if self._pidfd >= 0:
            self._kill_group()

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def describe_end(code: int) -> str:
    """How a process ended, for people: `exit code 3`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
