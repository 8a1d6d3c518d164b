"""Processes of an earlier `warmlane up` on the same folder that was killed before it could stop them."""

from __future__ import annotations

from pathlib import Path

import psutil

MARK = "WARMLANE_UP_FOLDER"
"""Every process that `up` starts has the data folder under this name in its environment, and so have their children."""

# They were told to stop when their supervisor ended; this is how long they may take.
_GRACE_S = 10.0
_KILL_TIMEOUT_S = 5.0


def end_leftovers(root: Path) -> int:
    """Waits for what an earlier supervisor left on the folder, kills what does not go; returns how many there were. Blocks.

    Only the holder of the folder may call it: then nobody else's processes can carry its mark.
    """
    found = [process for process in psutil.process_iter() if _is_marked(process, str(root))]
    _gone, alive = psutil.wait_procs(found, timeout=_GRACE_S)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=_KILL_TIMEOUT_S)
    return len(found)


def _is_marked(process: psutil.Process, root: str) -> bool:
    try:
        return process.environ().get(MARK) == root
    except (psutil.Error, OSError):
        # Another user's process, or one that ended meanwhile.
        return False
