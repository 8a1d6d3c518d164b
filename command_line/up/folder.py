"""The data folder of one stack: who holds it, what runs, on which ports, and the logs."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from command_line.failures import CommandError

_TAIL_BYTES = 16 * 1024


class DataFolder:
    """Names everything that `warmlane up` keeps under one folder."""

    def __init__(self, root: Path) -> None:
        """Names the folder; nothing is made yet."""
        self.root = root.resolve()
        self.run = self.root / "run"
        self.logs = self.root / "logs"
        self.ports_path = self.run / "ports.json"

    def create(self) -> None:
        """Makes the folders. Raises CommandError when the place cannot be written."""
        try:
            for folder in (self.run, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"cannot make the data folder {self.root}: {error.strerror}. Name another one with --data-dir."
            raise CommandError(msg) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder; the kernel lets go of it when the holder ends in any way.

        Raises:
            CommandError: another `warmlane up` holds it.
        """
        with (self.run / "up.lock").open("a+", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                holder = lock.read().strip() or "unknown"
                msg = (
                    f"another `warmlane up` (process {holder}) already runs on {self.root}. "
                    "Stop it first, or give this one its own --data-dir and --grpc-port 0."
                )
                raise CommandError(msg) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            # Of a run that was killed: nothing of it lives once the folder is held.
            for stale in self.run.glob("*.pid"):
                stale.unlink(missing_ok=True)
            yield

    def log_path(self, process: str) -> Path:
        """Log of one process; appended to by every start."""
        return self.logs / f"{process}.log"

    def pid_path(self, process: str) -> Path:
        """Holds the process id while it runs."""
        return self.run / f"{process}.pid"

    def write_pid(self, process: str, pid: int) -> None:
        """Records a start."""
        _write_whole(self.pid_path(process), f"{pid}\n")

    def clear_pid(self, process: str) -> None:
        """Records an end."""
        self.pid_path(process).unlink(missing_ok=True)

    def write_ports(self, ports: Mapping[str, int]) -> None:
        """Records the port of every process, by its name."""
        _write_whole(self.ports_path, json.dumps(dict(ports), indent=2) + "\n")

    def clear_ports(self) -> None:
        """Records that nothing is served any more."""
        self.ports_path.unlink(missing_ok=True)

    def log_tail(self, process: str, *, since: int, lines: int) -> list[str]:
        """Last lines that a process logged since an offset of its log, at most `lines`."""
        try:
            with self.log_path(process).open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(since, end - _TAIL_BYTES, 0))
                text = log.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-lines:]


def read_ports(root: Path) -> dict[str, int]:
    """Ports of the stack that runs on a data folder; empty when none does."""
    try:
        content = json.loads(DataFolder(root).ports_path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(name): port for name, port in content.items() if isinstance(port, int)}


def _write_whole(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a reader never sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
