"""Memory of workers for tests: ladders of two rungs whose figures are round, so that what fits can be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from admission.core.tasks import MemoryRecord
from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase

MIB = 1024**2
RESIDENT, STREAMED = "resident", "streamed"


def ladder(model: str, *, resident_mib: int = 600, streamed_mib: int = 200, per_token_kib: int = 100) -> ModelLadder:
    """Weights of 600 or 200 MiB, and activations of 100 KiB a token in denoising, a tenth of it in decoding.

    A clip of 512x512x9 has 3072 tokens: 300 MiB of activations.
    """
    rungs = ((RESIDENT, resident_mib), (STREAMED, streamed_mib))
    return ModelLadder(
        model=model,
        rungs=tuple(
            Rung(
                placement=name,
                phases=(
                    PhaseCost(phase=MemoryPhase.TEXT, weights_bytes=weights * MIB, activations=Activations(fixed=MIB)),
                    PhaseCost(
                        phase=MemoryPhase.DENOISE, weights_bytes=weights * MIB, activations=Activations(per_token=per_token_kib * 1024)
                    ),
                    PhaseCost(
                        phase=MemoryPhase.DECODE, weights_bytes=10 * MIB, activations=Activations(per_token=per_token_kib * 1024 / 10)
                    ),
                ),
                host_bytes=resident_mib * MIB,
                pinned_bytes=0 if name == RESIDENT else resident_mib * MIB,
            )
            for name, weights in rungs
        ),
    )


def worker(budget_mib: int, *models: str, gpu: str = "Simulated 1 GiB", ladders: Iterable[ModelLadder] = ()) -> WorkerMemory:
    """A worker with so much for weights and activations, 64 MiB beside it taken and 64 MiB kept free."""
    limits = DeviceLimits(
        gpu=gpu,
        total_bytes=(budget_mib + 128) * MIB,
        other_bytes=64 * MIB,
        margin_bytes=64 * MIB,
        host_bytes=8192 * MIB,
        pinned_limit_bytes=4096 * MIB,
    )
    return WorkerMemory(limits=limits, ladders=tuple(ladders) or tuple(ladder(model) for model in models))


def record(placement: str = RESIDENT, *, out_of_memory: Iterable[str | Mapping[str, object]] = (), **figures: object) -> MemoryRecord:
    """Of an attempt whose last try used this placement; `figures` as in `warmlane.generation.v1.MemoryRecord`, `peaks` by phase."""
    peaks = figures.pop("peaks", {})
    assert isinstance(peaks, dict)
    return MemoryRecord(
        figures={
            "device": "simulated",
            "placement": placement,
            "phase_peaks": [{"phase": phase, "peak_bytes": peak} for phase, peak in peaks.items()],
            "out_of_memory": [{"phase": "denoise", "placement": one} if isinstance(one, str) else one for one in out_of_memory],
            **figures,
        }
    )


def parameters(width: int = 512, height: int = 512, num_frames: int = 9) -> dict[str, object]:
    """Of a task: what its memory depends on, beside the mode."""
    return {"width": width, "height": height, "num_frames": num_frames}


def tokens_of(values: dict[str, object]) -> int:
    """Latent tokens of such parameters."""
    width, height, frames = (int(str(values[name])) for name in ("width", "height", "num_frames"))
    return ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)
