"""The process that keeps Phr00t warm and renders with it."""

from __future__ import annotations

import sys

from lane_phr00t.config import Settings
from runtime.lane.main import run_lane


def main() -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    return run_lane(Settings, models=("phr00t",), catalog="lane_phr00t.pipeline:catalog", is_dedicated=True)


if __name__ == "__main__":
    sys.exit(main())
