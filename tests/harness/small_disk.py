"""A disk of a few MiB that a test may fill: a tmpfs of its own. Needs root; without it the test fails and says so."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import TracebackType

_MOUNT_S = 20.0
_FILLER = "filler"


class SmallDisk:
    """Use as a context manager: entering mounts it, leaving unmounts it. Its files live in memory."""

    def __init__(self, folder: Path, *, size_mib: int = 8) -> None:
        """Mounted on this folder, which is made."""
        self.folder = folder
        self._size_mib = size_mib

    def __enter__(self) -> SmallDisk:
        """Mounts it; raises AssertionError where this machine does not allow that."""
        self.folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m", "tmpfs", str(self.folder)]
        done = subprocess.run(mount, capture_output=True, text=True, timeout=_MOUNT_S, check=False)
        if done.returncode != 0:
            msg = f"the tests with a full disk mount a tmpfs, so they need root (CI runs as root): {done.stderr.strip()}"
            raise AssertionError(msg)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Unmounts it, even when something still has a file open there."""
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, timeout=_MOUNT_S, check=False)

    def fill(self) -> None:
        """Takes the last byte."""
        with (self.folder / _FILLER).open("ab", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                self._fill_by(filler.fileno(), size)

    def free(self) -> None:
        """Gives it all back."""
        (self.folder / _FILLER).unlink()

    @staticmethod
    def _fill_by(file: int, size: int) -> None:
        while True:
            try:
                os.write(file, b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return
