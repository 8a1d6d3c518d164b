"""What a lane reports of its memory, checked: admission reckons with these figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from warmlane.lane.v1 import memory_pb2

from admission.engine_types import InvalidReportError
from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase

_MAX_NAME = 200
_MAX_RUNGS = 32
_MAX_PHASES = 16
_PHASES = {phase.value for phase in MemoryPhase}


@lru_cache(maxsize=1024)
def memory(serialized: bytes) -> WorkerMemory:
    """The memory of a report, from its bytes: a lane says the same at every report, and what is said again need not be read again.

    Raises:
        InvalidReportError: a figure makes no sense.
    """
    message = memory_pb2.WorkerMemory.FromString(serialized)
    of = message.limits
    sizes = {
        "total_bytes": of.total_bytes,
        "other_bytes": of.other_bytes,
        "margin_bytes": of.margin_bytes,
        "host_bytes": of.host_bytes,
        "pinned_limit_bytes": of.pinned_limit_bytes,
    }
    _require_sizes("memory.limits", sizes.values())
    _require(0 < len(of.gpu) <= _MAX_NAME, "memory.limits.gpu must be set")
    models = [ladder.model for ladder in message.ladders]
    _require(len(set(models)) == len(models), "memory.ladders must have each model once")
    return WorkerMemory(limits=DeviceLimits(gpu=of.gpu, **sizes), ladders=tuple(_ladder(ladder) for ladder in message.ladders))


def _ladder(message: memory_pb2.ModelLadder) -> ModelLadder:
    names = [rung.placement for rung in message.rungs]
    _require(0 < len(names) <= _MAX_RUNGS and len(set(names)) == len(names), "memory.ladders.rungs must be some, each once")
    _require(len(message.text_to_video_weights) <= _MAX_NAME, "memory.ladders.text_to_video_weights is too long")
    return ModelLadder(
        model=message.model, rungs=tuple(_rung(rung) for rung in message.rungs), text_to_video_weights=message.text_to_video_weights
    )


def _rung(message: memory_pb2.Rung) -> Rung:
    _require(0 < len(message.placement) <= _MAX_NAME, "memory.ladders.rungs.placement must be set")
    _require(len(message.phases) <= _MAX_PHASES, "memory.ladders.rungs.phases are too many")
    _require_sizes("memory.ladders.rungs", (message.host_bytes, message.pinned_bytes))
    return Rung(
        placement=message.placement,
        phases=tuple(_phase(phase) for phase in message.phases),
        host_bytes=message.host_bytes,
        pinned_bytes=message.pinned_bytes,
    )


def _phase(message: memory_pb2.PhaseCost) -> PhaseCost:
    _require(message.phase in _PHASES, "memory.ladders.rungs.phases.phase is unknown")
    _require_sizes("memory.ladders.rungs.phases", (message.weights_bytes,))
    sized = (message.per_token, message.per_pixel, message.per_frame_pixel)
    # What is negative would let a larger request need less, and what is no number nothing at all.
    _require(all(math.isfinite(one) and one >= 0 for one in sized), "memory.ladders.rungs.phases must not shrink with size")
    _require(math.isfinite(message.fixed), "memory.ladders.rungs.phases.fixed must be a number")
    per_token, per_pixel, per_frame_pixel = sized
    return PhaseCost(
        phase=MemoryPhase(message.phase),
        weights_bytes=message.weights_bytes,
        activations=Activations(fixed=message.fixed, per_token=per_token, per_pixel=per_pixel, per_frame_pixel=per_frame_pixel),
        modes=tuple(message.modes),
    )


def _require_sizes(where: str, sizes: Iterable[int]) -> None:
    _require(all(size >= 0 for size in sizes), f"{where} must not be negative")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidReportError(message)
