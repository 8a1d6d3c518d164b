"""The two models in turn through one slot, and what a switch costs against a copy of the same bytes over the bus."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bench import Bench, request_of
from runtime.fit.ladder import TEXT_ENCODER, TRANSFORMERS, VAE

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALTERNATIONS = 40
_SWITCHES = 8


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
    """How fast pinned memory reaches the device: buffers as the weights have, copied one after the other, nothing else going on."""
    memory = bench.memory
    sizes = [1024**2 if bench.plan.is_tiny else 256 * 1024**2] * 8
    sources = memory.host_buffers(sizes)
    target = memory.allocate(sizes[0])
    seconds = []
    for _ in range(5):
        memory.wait()
        started_s = time.monotonic()
        for source in sources:
            memory.finish_copy(memory.begin_copy(source, target))
        memory.wait()
        seconds.append(time.monotonic() - started_s)
    return {"bytes_per_second": round(sum(sizes) / min(seconds))}


def measure_switches(bench: Bench, copies: Mapping[str, Any]) -> list[dict[str, Any]]:
    """(b): from the order of another model to its weights on the device, against the time in which as many bytes are copied.

    The bytes are those that a render brings before its first step: text encoder, VAE and the first transformer, in the placement that keeps
    the working part whole. Both models' weights are in host memory before the first one.
    """
    models = bench.catalog.models()
    for model in models:
        bench.resident.ensure(model, lambda _stage: None)
    rows = []
    for index in range(_SWITCHES):
        model = models[index % len(models)]
        bench.memory.wait()
        started_s = time.monotonic()
        change = bench.resident.ensure(model, lambda _stage: None)
        assembled_s = time.monotonic()
        moved_bytes = 0
        for name in (TEXT_ENCODER, VAE, TRANSFORMERS[0]):
            with bench.inside.placer.working(name):
                bench.memory.wait()
                moved_bytes += sum(group.size_bytes for group in bench.inside.parts[name].groups)
        ended_s = time.monotonic()
        copy_s = moved_bytes / copies["bytes_per_second"]
        rows.append(
            {
                "model": model,
                "bytes": moved_bytes,
                "release_s": round(change.release_s, 4) if change is not None else None,
                "load_s": round(change.load_s, 4) if change is not None else None,
                "weights_s": round(ended_s - assembled_s, 4),
                "switch_s": round(ended_s - started_s, 4),
                "copy_s": round(copy_s, 4),
                "switch_over_copy": round((ended_s - started_s) / copy_s, 3),
            }
        )
        bench.memory.cleanup()
    return rows
