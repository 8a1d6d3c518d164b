"""The real processes without torch: admission, bridge, lane agents and pipeline processes that render noise, started again at once.

For tests that kill and stop processes by the hundred: a lane is warm again within a second or two of its death.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import httpx
import psutil
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from tests.harness import tied
from tests.harness.http import fetch
from tests.harness.light_lane import MODELS
from tests.harness.stack import API_KEY, StackError

ADMISSION = "admission"
HTTP_BRIDGE = "http-bridge"
LANES = tuple(MODELS)
ALL = (ADMISSION, *LANES, HTTP_BRIDGE)

_ROOT = Path(__file__).resolve().parents[2]
_LOOK_S = 0.01
_POLL_S = 0.02
_TAIL_LINES = 30
_END_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A process that ended; `code` as the subprocess module says it, `expected`: the test had killed it."""

    name: str
    pid: int
    code: int
    expected: bool


@dataclass(slots=True, kw_only=True)
class _Process:
    """One process under its name.

    Attributes:
        is_wanted: it is started (again) when it does not run.
        killed: process ids that the test killed.
        started_s: monotonic time of the last start.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_wanted: bool = True
    running: subprocess.Popen[bytes] | None = None
    killed: set[int] = field(default_factory=set)
    started_s: float = 0.0
    starts: int = 0


class LightStack:
    """Use as a context manager: entering starts it and waits until everything is ready, leaving kills it.

    Attributes:
        folder: its files: logs, database, objects.
        objects: folder of the object store.
        database: file of admission's state.
        api_key: opens the HTTP API.
    """

    api_key = API_KEY

    def __init__(
        self,
        folder: Path,
        *,
        processes: Iterable[str] = ALL,
        database: Path | None = None,
        objects: Path | None = None,
        environment: Mapping[str, str] | None = None,
        catalogs: Mapping[str, str] | None = None,
        ready_timeout_s: float = 60.0,
    ) -> None:
        """Prepares a stack.

        Args:
            folder: of its own; may hold the data of an earlier run.
            processes: which of ALL to run.
            database: file of admission's state; None: in the folder.
            objects: folder of the object store; None: in the folder.
            environment: settings beside those that the stack sets.
            catalogs: of lanes that shall not have the numpy one, by name.
            ready_timeout_s: how long it may take to become ready.
        """
        self.folder = folder
        self.database = database or folder / "admission.db"
        self.objects = objects or folder / "objects"
        self._ready_timeout_s = ready_timeout_s
        self._ports = {name: _free_port() for name in (ADMISSION, HTTP_BRIDGE)}
        settings = self._settings() | dict(environment or {})
        self._processes = {
            name: _Process(name=name, command=_command(name, (catalogs or {}).get(name)), environment=self._of(name, settings))
            for name in processes
        }
        self._exits: list[Exit] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._supervisor: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Starts it and waits until it is ready."""
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Kills it."""
        self.stop()

    def start(self) -> None:
        """Starts the supervisor, and it every process."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "models").mkdir(exist_ok=True)
        # Processes are tied to this thread: it alone starts them, and lives as long as the stack.
        self._supervisor = threading.Thread(target=self._supervise, name="light-stack", daemon=True)
        self._supervisor.start()

    def stop(self) -> None:
        """Kills every process and waits for its end."""
        self._end.set()
        if self._supervisor is not None:
            self._supervisor.join(_END_S)
            self._supervisor = None

    @property
    def grpc_address(self) -> str:
        """host:port of admission."""
        return f"127.0.0.1:{self._ports[ADMISSION]}"

    @property
    def http_url(self) -> str:
        """Base URL of the bridge."""
        return f"http://127.0.0.1:{self._ports[HTTP_BRIDGE]}"

    @property
    def names(self) -> tuple[str, ...]:
        """Processes of this stack."""
        return tuple(self._processes)

    def pid(self, name: str) -> int | None:
        """Process id; None while it is between two lives."""
        with self._lock:
            running = self._processes[name].running
            return None if running is None else running.pid

    def pipeline_pid(self, lane: str) -> int | None:
        """Process id of the lane's pipeline process; None while there is none."""
        agent = self.pid(lane)
        try:
            children = [] if agent is None else psutil.Process(agent).children()
            return next((child.pid for child in children if "runtime.lane.child" in child.cmdline()), None)
        except psutil.Error:
            return None

    def started_s(self, name: str) -> float:
        """Monotonic time of the process's last start."""
        with self._lock:
            return self._processes[name].started_s

    def kill(self, name: str) -> int | None:
        """kill -9; returns the process id that it had, None when it did not run."""
        with self._lock:
            process = self._processes[name]
            if process.running is None or process.running.poll() is not None:
                return None
            process.killed.add(process.running.pid)
            process.running.kill()
            return process.running.pid

    def leave_down(self, name: str) -> None:
        """When it ends, it is not started again before `let_up`."""
        with self._lock:
            self._processes[name].is_wanted = False

    def hold_down(self, name: str) -> None:
        """Kills it and does not start it again before `let_up`."""
        self.leave_down(name)
        self.kill(name)
        self.until(lambda: self.pid(name) is None, _END_S, f"{name} does not end")

    def let_up(self, name: str) -> None:
        """Starts it again."""
        with self._lock:
            self._processes[name].is_wanted = True

    def set_for_next_start(self, name: str, variable: str, value: str) -> None:
        """Its lives from the next one on have this setting."""
        with self._lock:
            process = self._processes[name]
            process.environment = {**process.environment, variable: value}

    def restart(self, name: str, *, timeout_s: float = 20.0) -> None:
        """kill -9, and returns when the next process runs (not when it serves)."""
        old = self.kill(name)
        self.until(lambda: self.pid(name) not in (old, None), timeout_s, f"{name} was not started again")

    def unexpected_exits(self) -> tuple[Exit, ...]:
        """Processes that ended although nobody killed them."""
        with self._lock:
            return tuple(one for one in self._exits if not one.expected)

    def starts(self) -> dict[str, int]:
        """How often each process was started."""
        with self._lock:
            return {name: process.starts for name, process in self._processes.items()}

    def snapshot(self, timeout_s: float = 2.0) -> operators.GetSnapshotResponse:
        """What admission sees; raises grpc.RpcError while it does not serve."""
        with grpc.insecure_channel(self.grpc_address) as channel:
            return OperatorServiceStub(channel).GetSnapshot(operators.GetSnapshotRequest(), timeout=timeout_s)

    def wait_until_ready(self) -> None:
        """Returns when every lane of the stack can be given work and the bridge answers."""
        self.until(self._is_ready, self._ready_timeout_s, "the stack did not become ready")

    def until(self, condition: Callable[[], bool], timeout_s: float, problem: str) -> None:
        """Returns when the condition holds; raises StackError with the ends of the logs when it takes too long."""
        ends_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= ends_s:
                msg = f"{problem} within {timeout_s:g} s\n{self.tails()}"
                raise StackError(msg)
            time.sleep(_POLL_S)

    def log(self, name: str) -> str:
        """Everything that a process logged, over all its lives."""
        try:
            return (self.folder / "logs" / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def tails(self) -> str:
        """The ends of all logs, for a failed test."""
        return "\n".join(f"--- {name} ---\n" + "\n".join(self.log(name).splitlines()[-_TAIL_LINES:]) for name in self._processes)

    def _is_ready(self) -> bool:
        try:
            snapshot = self.snapshot()
            if HTTP_BRIDGE in self._processes:
                fetch("GET", f"{self.http_url}/health").raise_for_status()
        except (grpc.RpcError, httpx.HTTPError):
            return False
        ready = {lane.lane_id for lane in snapshot.lanes if lane.availability == operators.AVAILABILITY_READY}
        return ready >= set(self._processes) & set(LANES)

    def _settings(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WARMLANE_")}
        return clean | {
            "WARMLANE_LOG_FORMAT": "json",
            "WARMLANE_ADMISSION_BIND": self.grpc_address,
            "WARMLANE_METRICS_BIND": "127.0.0.1:0",
            "WARMLANE_ADMISSION_ADDRESS": self.grpc_address,
            "WARMLANE_DATABASE_URL": f"sqlite:///{self.database}",
            "WARMLANE_OBJECT_STORE_URL": self.objects.as_uri(),
            "WARMLANE_HTTP_BIND": f"127.0.0.1:{self._ports[HTTP_BRIDGE]}",
            "WARMLANE_API_KEY": self.api_key,
            "WARMLANE_COOKIE_SECURE": "false",
            "WARMLANE_MODELS_DIR": str(self.folder / "models"),
            "WARMLANE_DEVICE": "cpu",
            "WARMLANE_TORCH_THREADS": "1",
        }

    def _of(self, name: str, settings: Mapping[str, str]) -> dict[str, str]:
        own = {"WARMLANE_LANE_ID": name, "WARMLANE_INSPECTION_BIND": "127.0.0.1:0"} if name in LANES else {}
        return dict(settings) | own

    def _supervise(self) -> None:
        try:
            while not self._end.wait(_LOOK_S):
                for process in self._processes.values():
                    with self._lock:
                        self._look_after(process)
        finally:
            for process in self._processes.values():
                if process.running is not None:
                    process.running.kill()
                    process.running.wait(_END_S)
                    process.running = None

    def _look_after(self, process: _Process) -> None:
        running = process.running
        if running is not None and (code := running.poll()) is not None:
            self._exits.append(Exit(name=process.name, pid=running.pid, code=code, expected=running.pid in process.killed))
            process.running = running = None
        if running is None and process.is_wanted:
            with (self.folder / "logs" / f"{process.name}.log").open("ab") as log:
                process.running = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(tied.__file__)), str(os.getpid()), *process.command],
                    cwd=_ROOT,
                    env=dict(process.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            process.started_s = time.monotonic()
            process.starts += 1


def signal_process(pid: int | None, number: signal.Signals) -> bool:
    """Sends a signal; False when there is no such process."""
    if pid is None:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _command(name: str, catalog: str | None) -> list[str]:
    if name in LANES:
        return [sys.executable, "-m", "tests.harness.light_lane", name, *([catalog] if catalog else [])]
    return [sys.executable, "-m", name.replace("-", "_")]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
