"""The two models in turn through one slot, and what a switch costs against a copy of the same bytes over the bus."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.gpu.bench import Bench, request_of

_ALTERNATIONS = 40


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
    sizes = [1024**2 if bench.plan.is_tiny else 256 * 1024**2] * 8
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
