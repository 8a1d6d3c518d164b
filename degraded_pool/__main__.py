"""The process that renders with either model, one resident at a time, when no dedicated lane can."""

from __future__ import annotations

import sys

from degraded_pool.config import Settings
from runtime.lane.main import run_lane


def main() -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code."""
    return run_lane(Settings, models=("anisora", "phr00t"), catalog="degraded_pool.catalog:catalog", is_dedicated=False)


if __name__ == "__main__":
    sys.exit(main())
