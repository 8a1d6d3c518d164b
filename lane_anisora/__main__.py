"""The process that keeps AniSora warm and renders with it."""

from __future__ import annotations

import sys

from lane_anisora.config import Settings
from runtime.lane.main import run_lane


def main() -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    return run_lane(Settings, models=("anisora",), catalog="lane_anisora.pipeline:catalog", is_dedicated=True)


if __name__ == "__main__":
    sys.exit(main())
