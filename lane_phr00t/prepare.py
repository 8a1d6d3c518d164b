"""`python -m lane_phr00t.prepare ORDER`: makes Phr00t's folder; `warmlane prepare phr00t` runs it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runtime.lane.prepare.main import run_prepare

if TYPE_CHECKING:
    from runtime.lane.prepare.checkpoint import Checkpoint


def main() -> int:
    """Returns the exit code."""
    return run_prepare("phr00t", _checkpoint)


def _checkpoint() -> Checkpoint:
    from lane_phr00t.checkpoint import CHECKPOINT

    return CHECKPOINT


if __name__ == "__main__":
    sys.exit(main())
