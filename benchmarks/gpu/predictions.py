"""`python -m benchmarks.gpu.predictions FILE`: the peaks that `benchmarks.gpu_memory` wrote down, against the predictions of today.

Needs no GPU: for after a change of the traces or of what is added to them. Prints every cell, and how many predictions are too low.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import real_plan
from benchmarks.gpu.cells import rows_of
from benchmarks.gpu.report import peaks
from runtime.fit.gpus import baseline_ladders


def rows_today(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each cell that was measured and fits the budget of that device by the predictions of today."""
    return rows_of(baseline_ladders(), report["limits"]["budget_bytes"], real_plan().grid, report["grid_runs"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="gpu_memory.json")
    report = json.loads(parser.parse_args(arguments).file.read_text(encoding="utf-8"))
    print("\n".join(peaks(rows_today(report))))


if __name__ == "__main__":
    main()
