"""Which GPU each lane gets on a machine with several, found without importing torch."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from command_line.failures import CommandError

_TIMEOUT_S = 10.0


def visible_gpus() -> list[str]:
    """Indexes of the GPUs that the driver shows, as CUDA_VISIBLE_DEVICES takes them; empty without a driver. Blocks."""
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.split()


def assign_gpus(lanes: Sequence[str], gpus: Sequence[str]) -> dict[str, str]:
    """One GPU for each lane, in order. With no GPU at all nothing is assigned: the lane itself says best what it misses.

    Raises:
        CommandError: there are some, but fewer than lanes: two heavy pipelines on one card is what this system exists to avoid.
    """
    if not gpus:
        return {}
    if len(gpus) < len(lanes):
        spare = " ".join(f"--without {name}" for name in lanes[len(gpus) :])
        msg = f"{len(lanes)} lanes want a GPU each, and this machine shows {len(gpus)}. Leave some out, for example: {spare}"
        raise CommandError(msg)
    return dict(zip(lanes, gpus, strict=False))
