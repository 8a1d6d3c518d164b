"""`python -m lane_anisora.prepare ORDER`: makes AniSora's folder; `warmlane prepare anisora` runs it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runtime.lane.prepare.main import run_prepare

if TYPE_CHECKING:
    from runtime.lane.prepare.checkpoint import Checkpoint


def main() -> int:
    """Returns the exit code."""
    return run_prepare("anisora", _checkpoint)


def _checkpoint() -> Checkpoint:
    from lane_anisora.checkpoint import CHECKPOINT

    return CHECKPOINT


if __name__ == "__main__":
    sys.exit(main())
