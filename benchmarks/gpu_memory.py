"""GPU memory, measured: peaks against predictions, alternating models, resident against streamed, recovery from a full device.

    python -m benchmarks.gpu_memory            an NVIDIA GPU, both models at their real sizes, under 10 minutes
    python -m benchmarks.gpu_memory --tiny     any machine: tiny models on the CPU, which proves the command and not the figures

The models have random weights of the real sizes and types (fp8 matrices made on the device), so nothing is downloaded. Torch is held to the
memory of an A10G: 22.06 GiB less what is measured beside torch. Writes `gpu_memory.json` and `gpu_memory.md` to --out and prints the table.
What does not fit the time is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.ballast import Ballasted
from benchmarks.gpu.bench import PICTURE_KEY, Bench, Plan, picture_file, real_plan, tiny_plan
from benchmarks.gpu.grid import measure_grid
from benchmarks.gpu.random_models import RandomCatalog
from benchmarks.gpu.recovery import measure_recovery
from benchmarks.gpu.report import markdown
from benchmarks.gpu.switches import measure_alternating, measure_copies
from runtime.lane.attempt import AttemptRunner
from runtime.lane.files import AttemptFiles
from runtime.lane.finish import Finisher
from runtime.lane.ladders import Ladders
from runtime.lane.memory.open import open_device
from runtime.lane.renderer import LoadSettings
from runtime.lane.resident_set import ResidentSet
from runtime.lane.run import Callbacks
from runtime.objects import open_object_store


def run(plan: Plan, device: str, folder: Path, *, seconds: float) -> dict[str, Any]:
    """All measurements; nothing new is begun after so many seconds."""
    import torch

    started_s = time.monotonic()
    memory = open_device(device, budget_bytes=plan.budget_bytes)
    catalog = Ballasted(RandomCatalog(folder / "models", is_tiny=plan.is_tiny))
    settings = LoadSettings(profile="tiny" if plan.is_tiny else "a10g", models_dir=folder, memory=memory)
    ladders = Ladders(catalog, settings)
    limits = ladders.measure().limits
    resident = ResidentSet(catalog, settings, ladders, lambda _model: None)
    objects = open_object_store((folder / "objects").as_uri())
    objects.put(PICTURE_KEY, picture_file())
    files = AttemptFiles(objects)
    runner = AttemptRunner(resident, ladders, memory, files, Callbacks(is_cancelled=lambda _order: False, tell=lambda _progress: None))
    bench = Bench(
        plan=plan,
        memory=memory,
        catalog=catalog,
        ladders=ladders,
        resident=resident,
        runner=runner,
        finisher=Finisher(files, tell=lambda _end: None),
        ends_s=started_s + seconds,
    )
    copies = measure_copies(bench)
    alternating = measure_alternating(bench)
    recovery = measure_recovery(bench)
    grid = measure_grid(bench)
    resident.close()
    return {
        "device": memory.label,
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if memory.device.startswith("cuda") else None,  # type: ignore[no-untyped-call]  # torch's
        "is_tiny": plan.is_tiny,
        "limits": {
            name: getattr(limits, name)
            for name in ("total_bytes", "other_bytes", "margin_bytes", "budget_bytes", "host_bytes", "pinned_limit_bytes")
        },
        "grid": grid,
        "alternating": alternating,
        "copies": copies,
        "recovery": recovery,
        "left_out": bench.left_out,
        "live_at_end_bytes": memory.live_bytes(),
        "seconds": round(time.monotonic() - started_s, 1),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument("--device", default="", help="cuda:N; the first GPU when left out, the CPU with --tiny")
    parser.add_argument("--seconds", type=float, default=540.0, help="nothing new is begun after this long")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder for the report")
    chosen = parser.parse_args()
    plan = tiny_plan() if chosen.tiny else real_plan()
    with tempfile.TemporaryDirectory(prefix="warmlane-bench-") as folder:
        report = run(plan, chosen.device or ("cpu" if chosen.tiny else "cuda:0"), Path(folder), seconds=chosen.seconds)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "gpu_memory.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = markdown(report)
    (chosen.out / "gpu_memory.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
