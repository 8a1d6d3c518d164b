"""Keeps processes running: starts each, restarts one that dies, stops all in order within a bounded time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from command_line.up.children import Child, describe_end
from command_line.up.folder import DataFolder
from command_line.up.processes import Process

_TAIL_LINES = 15
_KILL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How long to wait before a restart.

    Attributes:
        first_s: after the first death in a row; doubles with each further one.
        max_s: the longest wait.
        reset_after_s: a process that lived this long counts as healthy: its next death is a first one.
    """

    first_s: float = 0.5
    max_s: float = 10.0
    reset_after_s: float = 30.0

    def pause_s(self, deaths_in_a_row: int) -> float:
        """Wait after the n-th death in a row, from 1."""
        # 2 ** 20 times the first wait is over any limit; the cap keeps the power small.
        return float(min(self.max_s, self.first_s * 2 ** min(deaths_in_a_row - 1, 20)))


class Reporter(Protocol):
    """Is told what the supervisor sees. Called on the event loop; must not block."""

    def process_started(self, name: str, pid: int) -> None:
        """A process runs, for the first time or again."""
        ...

    def process_ended(self, name: str, how: str, *, restart_in_s: float) -> None:
        """A process ended that should run."""
        ...

    def process_keeps_ending(self, name: str, *, times: int, log_tail: Sequence[str], log_path: str) -> None:
        """A process ended again and again; the last lines of its log say why."""
        ...

    def process_stopped(self, name: str, how: str, *, killed: bool) -> None:
        """A process ended because it was told to; `killed` when it had to be forced."""
        ...


class Supervisor:
    """Owns the processes of one stack. Use as an async context manager: leaving it stops them all."""

    def __init__(self, processes: Sequence[Process], *, folder: DataFolder, reporter: Reporter, back_off: BackOff | None = None) -> None:
        """Prepares; nothing is started."""
        self._keepers = {one.name: _Keeper(one, folder, reporter, back_off or BackOff()) for one in processes}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Supervisor:
        """Starts every process, in the order given."""
        for name, keeper in self._keepers.items():
            self._tasks[name] = asyncio.create_task(keeper.run(), name=f"keep-{name}")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Stops what still runs."""
        await self.stop()

    def pid(self, name: str) -> int | None:
        """Process id; None while it is between two lives."""
        return self._keepers[name].pid

    def deaths(self, name: str) -> int:
        """Deaths in a row, without a healthy life between them."""
        return self._keepers[name].deaths

    def check(self) -> None:
        """Raises what a keeping task failed with: a supervisor that does not supervise must not go on quietly."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.result()

    async def stop(self) -> None:
        """Stops all, stage after stage; a process that does not go within its grace is killed. Safe to call twice."""
        by_stage = sorted(self._keepers.values(), key=lambda one: one.process.stop_stage)
        try:
            for _stage, group in groupby(by_stage, key=lambda one: one.process.stop_stage):
                await asyncio.gather(*(keeper.stop(self._tasks.get(keeper.process.name)) for keeper in group))
        finally:
            self.kill()

    def kill(self) -> None:
        """Ends every process at once."""
        for keeper in self._keepers.values():
            keeper.kill()


class _Keeper:
    """Runs one process again and again until told to stop."""

    def __init__(self, process: Process, folder: DataFolder, reporter: Reporter, back_off: BackOff) -> None:
        self.process = process
        self.deaths = 0
        self._folder = folder
        self._reporter = reporter
        self._back_off = back_off
        self._child: Child | None = None
        self._stopping = asyncio.Event()
        self._killed = False

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    async def run(self) -> None:
        """Returns when it was told to stop and the process is gone."""
        while not self._stopping.is_set():
            started_s = asyncio.get_running_loop().time()
            how, log_offset = await self._live()
            if self._stopping.is_set():
                self._reporter.process_stopped(self.process.name, how, killed=self._killed)
                return
            lived_s = asyncio.get_running_loop().time() - started_s
            self.deaths = 1 if lived_s >= self._back_off.reset_after_s else self.deaths + 1
            await self._pause(how, log_offset)

    async def _live(self) -> tuple[str, int]:
        """One life: how it ended, and where it began in the log."""
        name = self.process.name
        try:
            child = Child(self.process.command, self.process.environment, self._folder.log_path(name))
        except OSError as error:
            return f"could not be started: {error}", 0
        self._child = child
        try:
            # The file helps people and scripts; the process must run without it too (a full disk).
            with contextlib.suppress(OSError):
                self._folder.write_pid(name, child.pid)
            self._reporter.process_started(name, child.pid)
            return describe_end(await child.wait()), child.log_offset
        finally:
            self._child = None
            with contextlib.suppress(OSError):
                self._folder.clear_pid(name)

    async def _pause(self, how: str, log_offset: int) -> None:
        name = self.process.name
        pause_s = self._back_off.pause_s(self.deaths)
        self._reporter.process_ended(name, how, restart_in_s=pause_s)
        # At the second death, the fourth, the eighth, …: often enough to be seen, rarely enough to stay readable.
        if self.deaths >= 2 and self.deaths.bit_count() == 1:
            tail = self._folder.log_tail(name, since=log_offset, lines=_TAIL_LINES)
            path = str(self._folder.log_path(name))
            self._reporter.process_keeps_ending(name, times=self.deaths, log_tail=tail, log_path=path)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def stop(self, task: asyncio.Task[None] | None) -> None:
        """Asks the process to stop, and forces it when its grace is over."""
        self._stopping.set()
        if task is None:
            return
        if self._child is not None:
            self._child.terminate()
        await asyncio.wait([task], timeout=self.process.stop_grace_s)
        if not task.done():
            self.kill()
            await asyncio.wait([task], timeout=_KILL_TIMEOUT_S)

    def kill(self) -> None:
        self._stopping.set()
        if self._child is not None:
            self._killed = True
            self._child.kill()
