"""A preparation that the kernel kills: `python -m tests.unit.prepare.killed AFTER MODULE ORDER`, after so many waits for the disk."""

from __future__ import annotations

import os
import runpy
import signal
import sys


def main() -> None:
    """Runs the module and kills its own process within the wait, before anybody is told that the bytes are there."""
    after, module, order = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    waits = 0

    def fsync(_descriptor: int) -> None:
        nonlocal waits
        waits += 1
        if waits == after:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync  # type: ignore[assignment]  # files are named by number here
    sys.argv = [module, order]
    # Every group, however small, waits.
    from runtime.lane.prepare import writer

    writer._SYNC_BYTES = 0
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
