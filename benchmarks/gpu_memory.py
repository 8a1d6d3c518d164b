"""GPU memory, measured: peaks against predictions, alternating models, switches, streaming, recovery from a full device.

    python -m benchmarks.gpu_memory            an NVIDIA GPU, both models at their real sizes
    python -m benchmarks.gpu_memory --tiny     any machine: tiny models on the CPU, which proves the command and not the figures

The models have random weights of the real sizes and types (fp8 matrices made on the device), so nothing is downloaded. Torch is held to
the memory of an A10G: 22.06 GiB less what is measured beside torch. Writes `gpu_memory.json` and `gpu_memory.md` to --out, anew after
everything that was measured, and prints the table. What does not fit the time is left out and named: `--resume` with the JSON of an
earlier run, on the same kind of GPU, goes on with the grid from there.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.ballast import Ballasted
from benchmarks.gpu.bench import PICTURE_KEY, Bench, Plan, picture_file, real_plan, tiny_plan
from benchmarks.gpu.grid import measure_grid
from benchmarks.gpu.random_models import RandomCatalog
from benchmarks.gpu.recovery import measure_recovery
from benchmarks.gpu.report import markdown
from benchmarks.gpu.streaming import measure_streaming
from benchmarks.gpu.switches import measure_alternating, measure_copies, measure_switches
from runtime.lane.attempt import AttemptRunner
from runtime.lane.child_process import child_environment
from runtime.lane.files import AttemptFiles
from runtime.lane.finish import Finisher
from runtime.lane.ladders import Ladders
from runtime.lane.memory.open import open_device
from runtime.lane.renderer import LoadSettings
from runtime.lane.resident_set import ResidentSet
from runtime.lane.run import Callbacks
from runtime.objects import open_object_store

_PARTS = ("copies", "switches", "recovery", "alternating", "streaming", "grid")
_READY = "WARMLANE_BENCHMARK_READY"
_Report = dict[str, Any]


def open_bench(plan: Plan, device: str, folder: Path, *, ends_s: float) -> Bench:
    """The device, held to the plan's budget, with both models; nothing is loaded yet."""
    memory = open_device(device, budget_bytes=plan.budget_bytes)
    catalog = Ballasted(RandomCatalog(folder / "models", is_tiny=plan.is_tiny))
    settings = LoadSettings(profile="tiny" if plan.is_tiny else "a10g", models_dir=folder, memory=memory)
    ladders = Ladders(catalog, settings)
    ladders.measure()
    # As a lane's process does.
    gc.collect()
    gc.freeze()
    resident = ResidentSet(catalog, settings, ladders, lambda _model: None)
    objects = open_object_store((folder / "objects").as_uri())
    objects.put(PICTURE_KEY, picture_file())
    files = AttemptFiles(objects)
    runner = AttemptRunner(resident, ladders, memory, files, Callbacks(is_cancelled=lambda _order: False, tell=lambda _progress: None))
    return Bench(
        plan=plan,
        memory=memory,
        catalog=catalog,
        ladders=ladders,
        resident=resident,
        runner=runner,
        finisher=Finisher(files, tell=lambda _end: None),
        ends_s=ends_s,
    )


def run(bench: Bench, report: _Report, keep: Callable[[], None], parts: tuple[str, ...]) -> None:
    """Measures the parts one after the other into the report. What fails is noted there, and the next one begins."""
    started_s = time.monotonic()
    runs: list[dict[str, Any]] = report.setdefault("grid_runs", [])

    def kept() -> None:
        report["seconds"] = round(time.monotonic() - started_s, 1)
        report["left_out"] = bench.left_out
        keep()

    works: dict[str, Callable[[], Any]] = {
        "copies": lambda: measure_copies(bench),
        "switches": lambda: measure_switches(bench, report["copies"]),
        "recovery": lambda: measure_recovery(bench),
        "alternating": lambda: measure_alternating(bench),
        "streaming": lambda: measure_streaming(bench),
        "grid": lambda: measure_grid(bench, runs, kept),
    }
    for name in parts:
        try:
            report[name] = works[name]()
        except Exception:
            report.setdefault("failures", {})[name] = traceback.format_exc()
            traceback.print_exc()
        kept()
    bench.resident.close()
    report["live_at_end_bytes"] = bench.memory.live_bytes()
    kept()


def new_report(bench: Bench) -> _Report:
    """What was measured on: machine, versions, limits."""
    import diffusers
    import torch

    limits, is_gpu = bench.memory.limits(), bench.memory.device.startswith("cuda")
    names = ("total_bytes", "other_bytes", "margin_bytes", "budget_bytes", "host_bytes", "pinned_limit_bytes")
    return {
        "device": bench.memory.label,
        "driver": _driver() if is_gpu else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if is_gpu else None,  # type: ignore[no-untyped-call]  # torch's
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF", ""),
        "is_tiny": bench.plan.is_tiny,
        "limits": {name: getattr(limits, name) for name in names},
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]


def _grid_of(text: str) -> tuple[tuple[int, int, int], ...]:
    """`832x480x81,1280x720x81`."""
    return tuple((int(width), int(height), int(frames)) for width, height, frames in (size.split("x") for size in text.split(",")))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--device", default="", help="cuda:N; the first GPU when left out, the CPU with --tiny")
    parser.add_argument("--seconds", type=float, default=3_600.0, help="nothing new is begun after this long, start-up included")
    parser.add_argument("--parts", default=",".join(_PARTS), help=f"of {', '.join(_PARTS)}; switches need copies (default: all)")
    parser.add_argument(
        "--grid", type=_grid_of, help="WIDTHxHEIGHTxFRAMES, with commas between, in this order (default: what users ask for)"
    )
    parser.add_argument("--resume", type=Path, help="gpu_memory.json of an earlier run")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder for the report")
    chosen = parser.parse_args()
    ends_s = time.monotonic() + chosen.seconds
    plan = tiny_plan() if chosen.tiny else real_plan()
    plan = replace(plan, grid=chosen.grid or plan.grid)
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="warmlane-bench-") as folder:
        bench = open_bench(plan, chosen.device or ("cpu" if chosen.tiny else "cuda:0"), Path(folder), ends_s=ends_s)
        before = json.loads(chosen.resume.read_text(encoding="utf-8")) if chosen.resume else {}
        report = before | new_report(bench)

        def keep() -> None:
            (chosen.out / "gpu_memory.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            (chosen.out / "gpu_memory.md").write_text(markdown(report), encoding="utf-8")

        run(bench, report, keep, tuple(chosen.parts.split(",")))
    print(markdown(report))


if __name__ == "__main__":
    if _READY not in os.environ:
        # A lane's settings of allocator and threads are read when torch is imported.
        environment = child_environment({**os.environ, _READY: "1"}, device="cpu" if "--tiny" in sys.argv else "auto", torch_threads=0)
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.gpu_memory", *sys.argv[1:]], environment)  # noqa: S606
    main()
