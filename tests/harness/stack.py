"""The real thing: `warmlane up` as a process of its own, on free ports, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from command_line.up import launcher

API_KEY = "acceptance-api-key-0123456789"
ADMIN_KEY = "acceptance-admin-key-0123456789"
ADMISSION = "admission"
HTTP_BRIDGE = "http-bridge"

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.05
# `up` needs at most three stages of 15 s and the kill after them.
_STOP_TIMEOUT_S = 60.0
_TAIL_LINES = 40


class StackError(Exception):
    """The stack did not do what it should; the text holds the ends of its logs."""


class Stack:
    """A running stack. Use as a context manager: entering starts it and waits until it is ready, leaving stops it.

    Attributes:
        data_dir: its folder.
        api_key: opens the HTTP API.
        admin_key: opens the admin paths.
    """

    api_key = API_KEY
    admin_key = ADMIN_KEY

    def __init__(
        self,
        data_dir: Path,
        *,
        without: Sequence[str] = (),
        ready_timeout_s: float = 180.0,
        profile: str = "tiny",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepares a stack.

        Args:
            data_dir: folder of its own; may hold the data of an earlier run.
            without: processes to leave out.
            ready_timeout_s: how long it may take to become ready.
            profile: of the lanes.
            environment: settings beside those that the stack sets.
        """
        self.data_dir = data_dir
        self._without = tuple(without)
        self._ready_timeout_s = ready_timeout_s
        self._profile = profile
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Stack:
        """Starts it and waits until it is ready."""
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stops it."""
        self.stop()

    def start(self) -> None:
        """Starts `warmlane up`; its output goes to `up.log` in the data folder."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # Through the launcher, so that the stack ends with the test run even when that is killed.
        command = [sys.executable, str(Path(launcher.__file__).resolve()), str(os.getpid())]
        command += [sys.executable, "-m", "command_line", "up", "--profile", self._profile, "--data-dir", str(self.data_dir)]
        command += ["--http-port", "0", "--grpc-port", "0"]
        for name in self._without:
            command += ["--without", name]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WARMLANE_")}
        # One thread for each pipeline: a second one takes a quarter more of two cores that other tests share.
        settings = {"WARMLANE_API_KEY": self.api_key, "WARMLANE_ADMIN_KEY": self.admin_key, "WARMLANE_TORCH_THREADS": "1"}
        environment = clean | settings | self._environment
        self._output = (self.data_dir / "up.log").open("wb")
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT
        )

    def wait_until_ready(self) -> None:
        """Returns when `up` said `ready`; raises StackError when it ends before that, or takes too long."""
        self._until(lambda: "ready" in self.printed().splitlines(), self._ready_timeout_s, "the stack did not become ready")

    def stop(self) -> int | None:
        """Stops it as Ctrl-C does; returns the exit code of `up`, None when it did not run."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            process.send_signal(signal.SIGINT)
            return process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait(_STOP_TIMEOUT_S)
            msg = f"`warmlane up` did not stop within {_STOP_TIMEOUT_S:g} s\n{self.tails()}"
            raise StackError(msg) from error
        finally:
            if self._output is not None:
                self._output.close()
                self._output = None

    @property
    def http_url(self) -> str:
        """Base URL of the bridge."""
        return f"http://127.0.0.1:{self.ports()[HTTP_BRIDGE]}"

    @property
    def grpc_address(self) -> str:
        """host:port of admission."""
        return f"127.0.0.1:{self.ports()[ADMISSION]}"

    def address(self, process: str) -> str:
        """host:port of a process."""
        return f"127.0.0.1:{self.ports()[process]}"

    def ports(self) -> dict[str, int]:
        """Port of every process, by its name."""
        content: dict[str, int] = json.loads((self.data_dir / "run" / "ports.json").read_text(encoding="utf-8"))
        return content

    @property
    def up_pid(self) -> int:
        """Process id of `warmlane up` itself."""
        if self._process is None:
            raise StackError("the stack does not run")
        return self._process.pid

    def pid(self, process: str) -> int:
        """Process id of one process; raises StackError while it is between two lives."""
        try:
            return int((self.data_dir / "run" / f"{process}.pid").read_text(encoding="ascii"))
        except FileNotFoundError as error:
            msg = f"{process} does not run"
            raise StackError(msg) from error

    def kill(self, process: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to one process; returns the process id that it had."""
        pid = self.pid(process)
        os.kill(pid, number)
        return pid

    def wait_for_restart(self, process: str, old_pid: int, *, timeout_s: float = 30.0) -> int:
        """Returns the new process id when `up` has started the process again."""

        def is_new() -> bool:
            try:
                return self.pid(process) != old_pid
            except StackError:
                return False

        self._until(is_new, timeout_s, f"{process} was not started again")
        return self.pid(process)

    def log(self, process: str) -> str:
        """Everything that a process logged."""
        try:
            return (self.data_dir / "logs" / f"{process}.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def printed(self) -> str:
        """What `up` printed."""
        return (self.data_dir / "up.log").read_text(encoding="utf-8", errors="replace")

    def tails(self) -> str:
        """The ends of all logs, for a failed test."""
        parts = [("up", self.printed())]
        parts += [(path.stem, self.log(path.stem)) for path in sorted((self.data_dir / "logs").glob("*.log"))]
        return "\n".join(f"--- {name} ---\n" + "\n".join(text.splitlines()[-_TAIL_LINES:]) for name, text in parts)

    def _until(self, condition: Callable[[], bool], timeout_s: float, problem: str) -> None:
        ends_s = time.monotonic() + timeout_s
        while not condition():
            if self._process is None or self._process.poll() is not None:
                msg = f"{problem}: `warmlane up` ended\n{self.tails()}"
                raise StackError(msg)
            if time.monotonic() >= ends_s:
                msg = f"{problem} within {timeout_s:g} s\n{self.tails()}"
                raise StackError(msg)
            time.sleep(_POLL_S)
