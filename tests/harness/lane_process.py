"""A whole lane process with the numpy catalog, for tests: `python -m tests.harness.lane_process`; settings come from the environment."""

from __future__ import annotations

import sys

from degraded_pool.config import Settings
from runtime.lane.main import run_lane

if __name__ == "__main__":
    sys.exit(run_lane(Settings, models=("anisora",), catalog="tests.harness.lane_catalog:catalog", is_dedicated=True))
