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
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_memory_report import markdown
from benchmarks.random_models import RandomCatalog
from runtime.fit.cost import Shape
from runtime.fit.gpus import GPUS
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.fit.predict import peak_bytes
from runtime.lane.attempt import AttemptRunner
from runtime.lane.child_protocol import Render, RenderEnded
from runtime.lane.files import AttemptFiles
from runtime.lane.ladders import Ladders
from runtime.lane.memory.open import is_out_of_gpu_memory, open_device
from runtime.lane.raised import drop_frames
from runtime.lane.renderer import LoadSettings, RenderJob
from runtime.lane.resident_set import ResidentSet
from runtime.lane.run import Callbacks
from runtime.lane.state import Attempt
from runtime.objects import open_object_store
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.rules.parameters import to_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import numpy.typing as npt

    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.outcome import Outcome
    from runtime.lane.renderer import HostWeights, Pipeline
    from runtime.rules.request import GenerationRequest

_GIB = 1024**3
_ALTERNATIONS = 40
_STEPS = 2
"""Of the grid: with AniSora's schedule one for each expert; a longer denoising has the same peak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run at a size of the models.

    Attributes:
        grid: width, height, frames; the first that time has no room for is where the grid ends.
        small: of the alternating requests and of the recoveries.
        budget_bytes: memory that the device shall seem to have; 0: its own.
    """

    grid: tuple[tuple[int, int, int], ...]
    small: tuple[int, int, int]
    budget_bytes: int


def real_plan() -> Plan:
    """The sizes that users ask for, on the memory of an A10G."""
    grid = ((832, 480, 17), (832, 480, 49), (832, 480, 81), (1280, 720, 17), (1280, 720, 81))
    return Plan(grid=grid, small=(256, 256, 17), budget_bytes=GPUS["A10G"].total_bytes)


def tiny_plan() -> Plan:
    """Sizes for a CPU; every placement fits."""
    return Plan(grid=((256, 256, 9), (256, 256, 17), (320, 256, 17)), small=(256, 256, 9), budget_bytes=_GIB)


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything that the parts of the measurement share.

    Attributes:
        ends_s: monotonic time at which nothing new is begun.
        ballast: what takes memory away when a phase begins.
    """

    plan: Plan
    memory: DeviceMemory
    catalog: Ballasted
    ladders: Ladders
    resident: ResidentSet
    runner: AttemptRunner
    ends_s: float
    left_out: list[str] = field(default_factory=list)
    attempts: int = 0

    def has_time(self, what: str, needed_s: float = 0.0) -> bool:
        """Whether there is time for one more; notes what is left out."""
        if time.monotonic() + needed_s < self.ends_s:
            return True
        self.left_out.append(what)
        return False

    def attempt(self, request: GenerationRequest, placement: str = "") -> Outcome:
        """One whole attempt, as a lane runs it."""
        self.attempts += 1
        order = Render(
            attempt=Attempt(task_id=f"bench{self.attempts}", number=1),
            parameters=dict(to_parameters(request)),
            artifact_prefix=f"tasks/bench{self.attempts}/1/",
            placement=placement,
        )
        end = self.runner.run(order)
        if not isinstance(end, RenderEnded):
            msg = "the memory of a release did not come back"
            raise RuntimeError(msg)  # not an argument's type
        return end.outcome


class Ballasted:
    """A catalog whose pipelines find the device full when a phase begins, once, if they are told to."""

    def __init__(self, catalog: RandomCatalog) -> None:
        """Wraps a catalog."""
        self._catalog = catalog
        self.models = catalog.models
        self.ladder = catalog.ladder
        self.read = catalog.read
        self.phase: MemoryPhase | None = None

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """The pipeline, with the ballast at hand."""
        return _BallastedPipeline(self._catalog.assemble(model, weights, settings, on_stage), self, settings.memory)


class _BallastedPipeline:
    def __init__(self, pipeline: Pipeline, orders: Ballasted, memory: DeviceMemory) -> None:
        self._pipeline: Pipeline = pipeline
        self._orders = orders
        self._memory = memory
        self.weight_bytes = pipeline.weight_bytes

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        ballast: list[object] = []

        def on_phase(phase: MemoryPhase) -> None:
            job.on_phase(phase)
            if phase is self._orders.phase:
                self._orders.phase = None
                ballast.extend(_fill(self._memory))

        try:
            return self._pipeline.render(replace(job, on_phase=on_phase))
        finally:
            ballast.clear()

    def release(self) -> None:
        self._pipeline.release()
        del self._pipeline, self.weight_bytes


def _fill(memory: DeviceMemory) -> Iterator[object]:
    """Takes all memory that can be had, in pieces that get smaller."""
    size_bytes = 4 * _GIB
    while size_bytes >= 64 * 1024:
        try:
            yield memory.allocate(size_bytes)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            drop_frames(error)
            size_bytes //= 2


def request_of(model: str, mode: str, size: tuple[int, int, int], *, seed: int = 1) -> GenerationRequest:
    """A checked request; its pictures are looked up under a key that the benchmark has."""
    width, height, frames = size
    raw: dict[str, Any] = {
        "model": model,
        "mode": mode,
        "prompt": "waves on a beach",
        "width": width,
        "height": height,
        "num_frames": frames,
    }
    picture = {"key": "inputs/" + "0" * 64}
    raw |= {"i2v": {"reference_image": picture}, "first_last_frame": {"first_frame_image": picture, "last_frame_image": picture}}.get(
        mode, {}
    )
    return effective(check_request(raw), seed=seed)


def measure_grid(bench: Bench) -> list[dict[str, Any]]:
    """(a) and (c): peak against prediction, and seconds a step, for sizes, modes and placements that the prediction lets fit."""
    rows: list[dict[str, Any]] = []
    for size in bench.plan.grid:
        for model in bench.catalog.models():
            bench.resident.ensure(model, lambda _stage: None)
            for mode in ("t2v", "i2v", "first_last_frame"):
                rows += _cells(bench, model, mode, size)
    return rows


def _cells(bench: Bench, model: str, mode: str, size: tuple[int, int, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    request = replace(request_of(model, mode, size), steps=_STEPS)
    shape = Shape(width=request.width, height=request.height, num_frames=request.num_frames, mode=mode)
    fitting = [rung for rung in bench.ladders.of(model).rungs if peak_bytes(rung, shape) <= bench.memory.limits().budget_bytes]
    if mode != "t2v":
        # The modes differ in the encoding only.
        fitting = fitting[:1]
    for rung in fitting:
        name = f"{model} {mode} {size[0]}x{size[1]}x{size[2]} {rung.placement}"
        # From the last row's time: steps grow at least with the tokens.
        needed_s = max((row["render_s"] * shape.tokens / row["tokens"] for row in rows), default=0.0)
        if bench.has_time(name, needed_s):
            rows.append(_cell(bench, request, shape, rung.placement, peak_bytes(rung, shape)))
    return rows


def _cell(bench: Bench, request: GenerationRequest, shape: Shape, placement: str, predicted_bytes: int) -> dict[str, Any]:
    from PIL import Image

    memory, picture = bench.memory, Image.new("RGB", (request.width, request.height), (90, 120, 160))
    peaks: dict[str, int] = {}
    phase, steps = MemoryPhase.LOAD, list[float]()

    def on_phase(following: MemoryPhase) -> None:
        nonlocal phase
        peaks[phase] = max(peaks.get(phase, 0), memory.figures().peak_allocated_bytes or 0)
        memory.reset_peaks()
        phase = following

    def on_step(_step: int, _steps: int) -> None:
        memory.wait()
        steps.append(time.monotonic())

    memory.cleanup()
    memory.reset_peaks()
    job = RenderJob(
        request=request,
        images={"inputs/" + "0" * 64: picture},
        placement=BY_NAME[placement],
        on_phase=on_phase,
        on_step=on_step,
        check=memory.wait,
    )
    started_s, failure = time.monotonic(), ""
    try:
        bench.resident.pipeline.render(job)
    except RuntimeError as error:
        failure = f"{type(error).__name__}: {error}"[:200]
        drop_frames(error)
    render_s = time.monotonic() - started_s
    on_phase(MemoryPhase.LOAD)
    reserved_bytes = memory.figures().peak_reserved_bytes
    memory.cleanup()
    measured_bytes = max(peaks.values(), default=0)
    return {
        "model": request.model,
        "mode": request.mode,
        "size": f"{request.width}x{request.height}x{request.num_frames}",
        "tokens": shape.tokens,
        "placement": placement,
        "predicted_bytes": predicted_bytes,
        "peak_bytes": measured_bytes,
        "measured_over_predicted": round(measured_bytes / predicted_bytes, 4),
        "last_phase_reserved_bytes": reserved_bytes,
        "phase_peaks": {str(name): peak for name, peak in peaks.items() if peak},
        "seconds_per_step": round(steps[-1] - steps[-2], 4) if len(steps) > 1 else None,
        "render_s": round(render_s, 3),
        "live_after_bytes": memory.live_bytes(),
        "failure": failure,
    }


def measure_alternating(bench: Bench) -> dict[str, Any]:
    """(b): requests for one model and the other in turn through the slot, as the degraded pool has it."""
    models, failures = bench.catalog.models(), list[str]()
    switches, renders = list[float](), list[float]()
    residues, peaks = list[int](), list[int]()
    done = 0
    for index in range(_ALTERNATIONS):
        if not bench.has_time(f"alternating request {index + 1}", max(renders, default=0.0)):
            break
        outcome = bench.attempt(request_of(models[index % len(models)], "t2v", bench.plan.small, seed=index))
        done += 1
        change = outcome.memory.residency_change
        if outcome.failure is not None:
            failures.append(f"{index + 1}: {outcome.failure.code}: {outcome.failure.message}")
        if outcome.render_s is not None:
            renders.append(outcome.render_s)
        if change is not None and change.released_model:
            residues.append(change.residue_bytes)
            switches.append(change.release_s + change.load_s)
        peaks.append(outcome.memory.peak_reserved_bytes or outcome.memory.peak_allocated_bytes or 0)
    from_host = switches[1:]  # the first one reads the second model
    return {
        "requests": done,
        "failures": failures,
        "worst_residue_bytes": max(residues, default=0),
        "highest_peak_bytes": max(peaks, default=0),
        "budget_bytes": bench.memory.limits().budget_bytes,
        "switch_s_median": round(statistics.median(from_host), 4) if from_host else None,
        "switch_s_worst": round(max(from_host), 4) if from_host else None,
        "render_s_median": round(statistics.median(renders), 3) if renders else None,
    }


def measure_copies(bench: Bench) -> dict[str, Any]:
    """The floor of a switch: the weights of one transformer over the bus, from buffers as the weights have, and back from nothing."""
    memory = bench.memory
    sizes = [256 * 1024**2 if bench.plan.budget_bytes > 2 * _GIB else 1024**2] * 8
    sources = memory.host_buffers(sizes)
    target = memory.allocate(sizes[0])
    seconds = []
    for _ in range(3):
        memory.wait()
        started_s = time.monotonic()
        for source in sources:
            memory.finish_copy(memory.begin_copy(source, target))
        memory.wait()
        seconds.append(time.monotonic() - started_s)
    rate = sum(sizes) / min(seconds)
    floors = {
        model: round(
            max(cost.weights_bytes for rung in bench.ladders.of(model).rungs if rung.placement == "resident" for cost in rung.phases)
            / rate,
            4,
        )
        for model in bench.catalog.models()
    }
    return {"bytes_per_second": round(rate), "transformer_copy_s": floors}


def measure_recovery(bench: Bench) -> list[dict[str, Any]]:
    """(d): the device is full when a phase begins; the attempt must end well one rung down, and the one after it as if nothing had been."""
    rows = []
    for model in bench.catalog.models():
        for phase in (MemoryPhase.TEXT, MemoryPhase.DENOISE, MemoryPhase.DECODE):
            if not bench.has_time(f"recovery {model} {phase}", 20.0 if bench.plan.budget_bytes > 2 * _GIB else 1.0):
                continue
            request = request_of(model, "t2v", bench.plan.small)
            bench.catalog.phase = phase
            outcome = bench.attempt(request, "resident")
            after = bench.attempt(request, "resident")
            rows.append(
                {
                    "model": model,
                    "phase": phase.value,
                    "recovered": outcome.failure is None,
                    "out_of_memory": [f"{one.phase} {one.placement}" for one in outcome.memory.out_of_memory],
                    "placement": outcome.memory.placement,
                    "next_request_ok": after.failure is None and not after.memory.out_of_memory,
                    "live_after_bytes": outcome.memory.allocated_bytes,
                }
            )
    return rows


def run(plan: Plan, device: str, folder: Path, *, is_tiny: bool, seconds: float) -> dict[str, Any]:
    """All measurements."""
    import torch

    started_s = time.monotonic()
    memory = open_device(device, budget_bytes=plan.budget_bytes)
    catalog = Ballasted(RandomCatalog(folder / "models", is_tiny=is_tiny))
    settings = LoadSettings(profile="tiny" if is_tiny else "a10g", models_dir=folder, memory=memory)
    ladders = Ladders(catalog, settings)
    limits = ladders.measure().limits
    resident = ResidentSet(catalog, settings, ladders, lambda _model: None)
    files = AttemptFiles(open_object_store((folder / "objects").as_uri()))
    runner = AttemptRunner(resident, ladders, memory, files, Callbacks(is_cancelled=lambda _order: False, tell=lambda _progress: None))
    bench = Bench(plan=plan, memory=memory, catalog=catalog, ladders=ladders, resident=resident, runner=runner, ends_s=started_s + seconds)
    copies = measure_copies(bench)
    alternating = measure_alternating(bench)
    recovery = measure_recovery(bench)
    grid = measure_grid(bench)
    resident.close()
    return {
        "device": memory.label,
        "torch": torch.__version__,
        "is_tiny": is_tiny,
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
        report = run(plan, chosen.device or ("cpu" if chosen.tiny else "cuda:0"), Path(folder), is_tiny=chosen.tiny, seconds=chosen.seconds)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "gpu_memory.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = markdown(report)
    (chosen.out / "gpu_memory.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
