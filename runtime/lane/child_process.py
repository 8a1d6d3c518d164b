"""The agent's handle of one pipeline process: spawned (never forked Python), spoken to over a socket pair, waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from runtime.lane.child_protocol import MAX_LINE_BYTES, REPLACE_EXIT_CODE, Command, Event, decode_event, encode_command
from runtime.lane.scratch import make_folder, remove_folder
from runtime.roles import Role

_log = structlog.get_logger()

_EXIT_S = 5.0
"""A process that closed its socket has this long to end by itself."""

_NOT_FOR_CHILDREN = (
    "WARMLANE_OTLP_HEADERS",
    "WARMLANE_API_KEY",
    "WARMLANE_ADMIN_KEY",
    "WARMLANE_IMAGE_UPSTREAM_KEY",
    "WARMLANE_ACCOUNTS_UPSTREAM_KEY",
    "WARMLANE_DATABASE_URL",
    *(f"WARMLANE_{role.upper()}_TOKEN" for role in Role),
)
"""A pipeline speaks to its agent and to the object store only; what else runs in its process need not see these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended, as `returncode` of the subprocess module says it."""

    code: int

    @property
    def asks_for_replacement(self) -> bool:
        """The process ended on purpose, so that a new one takes over."""
        return self.code == REPLACE_EXIT_CODE

    def __str__(self) -> str:
        """For operators and memory records."""
        if self.code >= 0:
            return f"exit code {self.code}"
        name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else "which has no name"
        if -self.code == signal.SIGKILL:
            why = "the kernel sends it when the machine's memory runs out, but so can a person: the two look alike"
            return f"signal {-self.code}, {name} ({why})"
        return f"signal {-self.code}, {name}"


def child_environment(environment: Mapping[str, str], *, device: str, torch_threads: int) -> dict[str, str]:
    """The environment of a pipeline process, made from the agent's: allocator and threads are read when torch is imported."""
    child = {name: value for name, value in environment.items() if name not in _NOT_FOR_CHILDREN}
    # The older name would win over the newer one, so what it says moves there.
    allocator = child.pop("PYTORCH_CUDA_ALLOC_CONF", "") or child.get("PYTORCH_ALLOC_CONF", "")
    if device != "cpu" and "expandable_segments" not in allocator:
        # The phases of a render ask for blocks of very different sizes. In fixed segments the holes that one phase leaves are of no use to
        # the next, so memory runs out although the sum would do, and prediction knows sums only. Segments that grow by pages have no such
        # holes, and what is free of them goes back to the driver page by page.
        allocator = ",".join(part for part in (allocator, "expandable_segments:True") if part)
    if allocator:
        child["PYTORCH_ALLOC_CONF"] = allocator
    threads = str(torch_threads or len(os.sched_getaffinity(0)))
    # The number of threads decides the order of sums, and so the last bits of every picture.
    child["OMP_NUM_THREADS"] = child["MKL_NUM_THREADS"] = threads
    # Idle OpenMP threads sleep instead of spinning: with two lanes on the same cores a clip took four times as long otherwise.
    child.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Lanes load what was prepared; nothing is fetched while a task waits.
    child.setdefault("HF_HUB_OFFLINE", "1")
    return child


class ChildProcess:
    """A running pipeline process. Its owner calls `end` on it, whatever happens."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, folder: Path
    ) -> None:
        """Use `start`."""
        self._process = process
        self._reader = reader
        self._writer = writer
        self._folder = folder

    @classmethod
    async def start(cls, *, name: str, environment: Mapping[str, str]) -> ChildProcess:
        """Spawns it, with a temporary folder of its own as TMPDIR. Raises OSError when the system cannot."""
        folder = await asyncio.to_thread(make_folder, name)
        try:
            return await cls._spawn(name, {**environment, "TMPDIR": str(folder)}, folder)
        except BaseException:
            remove_folder(folder)  # empty but for what a process wrote that could not be spoken to
            raise

    @classmethod
    async def _spawn(cls, name: str, environment: Mapping[str, str], folder: Path) -> ChildProcess:
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-X", "faulthandler", "-m", "runtime.lane.child"),
                *("--fd", str(theirs.fileno()), "--agent-pid", str(os.getpid()), "--name", name),
                stdin=asyncio.subprocess.DEVNULL,
                # What libraries print goes where the log lines go.
                stdout=2,
                pass_fds=(theirs.fileno(),),
                env=dict(environment),
                # Signals to the agent's group are the agent's business.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        return cls(process, reader, writer, folder)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Sends a command; commands are few and small, so it never waits. A process that is gone misses it."""
        if not self._writer.is_closing():
            self._writer.write(encode_command(command))

    async def events(self) -> AsyncIterator[Event]:
        """What it tells, until it ends or says something that is no event."""
        try:
            while line := await self._reader.readline():
                if line.endswith(b"\n"):
                    yield decode_event(line)
        except (ValueError, OSError) as error:
            _log.warning("pipeline_unreadable", error=type(error).__name__)

    def kill(self) -> None:
        """Ends it at once; `end` says how it ended."""
        if self._process.returncode is None:
            self._process.kill()

    async def wait(self, timeout_s: float) -> bool:
        """Waits for its end; False when it still runs after that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def end(self) -> Exit:
        """Waits a little for its end, then enforces it; frees what the handle holds."""
        if not await self.wait(_EXIT_S):
            self.kill()
        code = await self._process.wait()
        self._writer.close()
        # A killed process leaves its files: half a video of every attempt.
        await asyncio.to_thread(remove_folder, self._folder)
        return Exit(code=code)
