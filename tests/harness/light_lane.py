"""A whole lane process with the numpy catalog instead of diffusers, or another: `python -m tests.harness.light_lane NAME [CATALOG]`.

Settings as every lane's.
"""

from __future__ import annotations

import sys

from degraded_pool.config import Settings
from runtime.lane.main import run_lane

MODELS = {"lane-anisora": ("anisora",), "lane-phr00t": ("phr00t",), "degraded-pool": ("anisora", "phr00t")}

if __name__ == "__main__":
    _models = MODELS[sys.argv[1]]
    _catalog = sys.argv[2] if len(sys.argv) > 2 else "tests.harness.lane_catalog:catalog"
    sys.exit(run_lane(Settings, models=_models, catalog=_catalog, is_dedicated=len(_models) == 1))
