"""The pipeline's process: one thread reads the agent's commands, the main thread runs the pipeline, a third makes the files of what was
rendered before. Started by `worker.Worker` only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import structlog

from runtime.lane.attempt import AttemptRunner
from runtime.lane.child_protocol import (
    MAX_LINE_BYTES,
    REPLACE_EXIT_CODE,
    Cancel,
    Command,
    Event,
    FilesStuck,
    GpuFreed,
    LimitsChanged,
    LoadFailed,
    Loading,
    Render,
    RenderEnded,
    ReplacementNeeded,
    ResidentChanged,
    Shutdown,
    Start,
    Started,
    decode_command,
    encode_event,
)
from runtime.lane.files import AttemptFiles
from runtime.lane.finish import Finisher, Rendered
from runtime.lane.ladders import Ladders
from runtime.lane.limits_watch import IDLE_S, LimitsWatch
from runtime.lane.loading import LoadProgress
from runtime.lane.memory.open import open_device
from runtime.lane.renderer import Catalog, LoadSettings
from runtime.lane.resident_set import LoadError, MemoryNotReturnedError, ResidentSet
from runtime.lane.run import Callbacks
from runtime.lane.start_failure import StartCause, StartError, starting
from runtime.logs import LogSettings, configure_logging
from runtime.objects import open_object_store

if TYPE_CHECKING:
    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.state import Attempt

_log = structlog.get_logger("runtime.lane.child")

_PR_SET_PDEATHSIG = 1
_LOAD_FAILED_EXIT_CODE = 1
_AGENT_GONE_EXIT_CODE = 3
# An attempt is cancelled once; the bound only keeps a wrong agent from filling the memory.
_CANCELLED_KEPT = 64


class Commands:
    """The agent's side of the socket: a thread reads it, so that a cancel is seen while the main thread renders."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over the connection; `start` begins to read."""
        self._connection = connection
        self._queue: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._cancelled: dict[Attempt, None] = {}
        self._send_lock = threading.Lock()

    def start(self) -> None:
        """Begins to read. When the agent is gone the process ends at once: nobody could learn of anything it does."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def next(self, timeout_s: float | None = None) -> Command | None:
        """The next command but cancels; waits for it, and gives None when none came in that time."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def is_cancelled(self, order: Render) -> bool:
        """Whether the agent wants this attempt to end."""
        return order.attempt in self._cancelled

    def tell(self, event: Event) -> None:
        """Sends one event."""
        with self._send_lock:
            self._connection.sendall(encode_event(event))

    def end(self) -> None:
        """After the last message: the agent sees the end now, not when the system has taken the process apart."""
        with contextlib.suppress(OSError):
            # Not `close`: the reading thread holds the socket open. Not both ways either: a command of the agent that crosses the end would
            # break the connection on its side before it has read the last message.
            self._connection.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                while line := lines.readline(MAX_LINE_BYTES):
                    self._take(decode_command(line))
        except (OSError, ValueError) as error:
            _log.error("agent_unreadable", error=type(error).__name__)
        os._exit(_AGENT_GONE_EXIT_CODE)

    def _take(self, command: Command) -> None:
        if not isinstance(command, Cancel):
            self._queue.put(command)
            return
        self._cancelled[command.attempt] = None
        while len(self._cancelled) > _CANCELLED_KEPT:
            self._cancelled.pop(next(iter(self._cancelled)))


def run(commands: Commands) -> int:
    """Serves the agent until it says to stop; returns the exit code."""
    start = commands.next()
    if not isinstance(start, Start):
        msg = f"the first command must be start, not {start}"
        raise TypeError(msg)
    try:
        catalog, memory, files = _opened(start, commands)
        settings = LoadSettings(
            profile=start.profile,
            models_dir=start.models_dir,
            memory=memory,
            attention_backend=start.attention_backend,
            is_compiled=start.compile_blocks,
        )
        ladders = Ladders(catalog, settings)
        _tell_stage(commands, "measuring what the placements need")
        # Before anything is loaded, so that all that is in use now is in use by others.
        with starting(StartCause.DEVICE):
            worker_memory = ladders.measure()
    except StartError as error:
        _log.exception("start_failed", cause=error.cause)
        commands.tell(LoadFailed(model=start.warm_model, reason=str(error), cause=error.cause))
        return _LOAD_FAILED_EXIT_CODE
    # What the libraries made stays for good. Left to the collector it would be looked at in every release and after every render, which
    # takes longer than all else that these do.
    gc.collect()
    gc.freeze()
    commands.tell(Started(device=memory.label, memory=worker_memory))
    resident = ResidentSet(
        catalog,
        settings,
        ladders,
        on_change=lambda model: commands.tell(ResidentChanged(model=model)),
        on_load=lambda progress: commands.tell(Loading(progress=progress)),
    )
    if start.warm_model and not _is_warmed(start.warm_model, resident, commands):
        return _LOAD_FAILED_EXIT_CODE
    runner = AttemptRunner(resident, ladders, memory, files, Callbacks(is_cancelled=commands.is_cancelled, tell=commands.tell))
    watch = LimitsWatch(memory, worker_memory.limits)
    finisher = Finisher(files, commands.tell)
    while not isinstance(command := commands.next(IDLE_S), Shutdown):
        # Whatever it was given: frames that were handed on must not be held by a name here until the next command.
        if _is_leaving_after(command, runner, finisher, watch, commands, overlap=start.overlap):
            return REPLACE_EXIT_CODE
    return _exit_code_after_release(resident)


def _is_leaving_after(
    command: Command | None, runner: AttemptRunner, finisher: Finisher, watch: LimitsWatch, commands: Commands, *, overlap: bool
) -> bool:
    """Works on a command, or looks at the device when there was none; whether the process said its last message."""
    end = runner.render(command) if isinstance(command, Render) else None
    is_leaving = isinstance(end, ReplacementNeeded) or runner.is_broken or not _has_told_limits(watch, commands)
    if is_leaving:
        # What was rendered before ends before the last message.
        finisher.wait()
    if isinstance(end, Rendered):
        if overlap and not is_leaving:
            commands.tell(GpuFreed(attempt=end.attempt, memory=end.memory))
            finisher.begin(end)
            return False
        end = finisher.finish(end)
    if end is not None:
        commands.tell(replace(end, leaving=is_leaving) if isinstance(end, RenderEnded) else end)
    return is_leaving


def _has_told_limits(watch: LimitsWatch, commands: Commands) -> bool:
    """Tells changed limits; False when the device does not answer any more."""
    try:
        limits = watch.news()
    except Exception as error:
        _log.error("device_lost", error=type(error).__name__, reason=str(error))
        return False
    if limits is not None:
        _log.warning("gpu_memory_changed", budget_bytes=limits.budget_bytes, other_bytes=limits.other_bytes)
        commands.tell(LimitsChanged(limits=limits))
    return True


def _opened(start: Start, commands: Commands) -> tuple[Catalog, DeviceMemory, AttemptFiles]:
    """What the process works with. Raises StartError."""
    _tell_stage(commands, "importing the libraries")
    with starting(StartCause.OTHER):
        catalog = _catalog(start.catalog)
    # Not the text of what is raised: it may quote the URL, and with it a key.
    with starting(StartCause.OTHER, "the object store cannot be opened"):
        store = open_object_store(start.object_store_url)
    files = AttemptFiles(store, on_trouble=lambda reason: commands.tell(FilesStuck(reason=reason)))
    _tell_stage(commands, "opening the device")
    with starting(StartCause.DEVICE):
        memory = open_device(
            start.device,
            budget_bytes=start.memory_budget_bytes,
            margin_bytes=start.memory_margin_bytes,
            pinned_limit_bytes=start.pinned_limit_bytes,
        )
    return catalog, memory, files


def _tell_stage(commands: Commands, stage: str) -> None:
    commands.tell(Loading(progress=LoadProgress(model="", stage=stage)))


def _catalog(dotted_name: str) -> Catalog:
    module, _, name = dotted_name.partition(":")
    # Looking for garbage among what is being imported, which stays, takes a fifth of the import of torch and diffusers.
    gc.disable()
    try:
        return cast("Catalog", getattr(importlib.import_module(module), name))
    finally:
        gc.enable()


def _is_warmed(model: str, resident: ResidentSet, commands: Commands) -> bool:
    try:
        change = resident.ensure(model, lambda _stage: None)
    except LoadError as error:
        _log.error("load_failed", model=model, cause=error.cause, reason=str(error))
        commands.tell(LoadFailed(model=model, reason=str(error), cause=error.cause))
        return False
    if change is not None:
        _log.info("model_warm", model=model, load_s=round(change.load_s, 3), weight_bytes=change.loaded_bytes)
    return True


def _exit_code_after_release(resident: ResidentSet) -> int:
    try:
        resident.close()
    except MemoryNotReturnedError as error:
        # The end of the process frees it.
        _log.warning("memory_not_returned", reason=str(error))
    return 0


def _die_with(agent_pid: int) -> None:
    """Has the kernel kill this process when its agent dies, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != agent_pid:
        # It died before the line above.
        os._exit(_AGENT_GONE_EXIT_CODE)


def main() -> int:
    """Entry point of `python -m runtime.lane.child`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True, help="the inherited socket to the agent")
    parser.add_argument("--agent-pid", type=int, required=True)
    parser.add_argument("--name", required=True, help="the lane, for log lines")
    arguments = parser.parse_args()
    _die_with(arguments.agent_pid)
    # Ctrl-C reaches the whole terminal group; the agent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging(LogSettings(), process=f"{arguments.name}-pipeline", lane=arguments.name)
    with socket.socket(fileno=arguments.fd) as connection:
        commands = Commands(connection)
        commands.start()
        try:
            return run(commands)
        finally:
            commands.end()


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    sys.stderr.flush()
    # At once, past every destructor: a GPU library that hangs or crashes on its way out would change the exit code.
    os._exit(exit_code)
