"""What a lane reports of its memory, checked: admission reckons with these figures."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from warmlane.lane.v1 import memory_pb2

from admission.engine_types import InvalidReportError
from admission.service.texts import is_name
from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase

_MAX_NAME = 200
_MAX_RUNGS = 32
_MAX_PHASES = 16
_MAX_MODES = 16
# Those of real lanes have some 2 KiB. Together with how many are kept it bounds what all lanes can make this process remember.
_MAX_MESSAGE_BYTES = 32 * 1024
_KEPT = 256
# Beyond every machine, and small enough that what is reckoned of them stays a number that a message can carry: one that cannot be
# reckoned with would end every decision about the model. 1 PiB; 16 MiB for a token, or a pixel of a frame.
_MAX_BYTES = 2**50
_MAX_PER_UNIT_BYTES = 2.0**24
_PHASES = {phase.value for phase in MemoryPhase}


@lru_cache(maxsize=_KEPT)
def memory(serialized: bytes) -> WorkerMemory:
    """The memory of a report, from its bytes: a lane says the same at every report, and what is said again need not be read again.

    Raises:
        InvalidReportError: a figure makes no sense.
    """
    _require(len(serialized) <= _MAX_MESSAGE_BYTES, f"memory must have at most {_MAX_MESSAGE_BYTES} bytes")
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
    _require(is_name(of.gpu, _MAX_NAME), "memory.limits.gpu must be set, to something printable")
    models = [ladder.model for ladder in message.ladders]
    _require(len(set(models)) == len(models), "memory.ladders must have each model once")
    _require(all(is_name(model, _MAX_NAME) for model in models), "memory.ladders.model must be set, to something printable")
    return WorkerMemory(limits=DeviceLimits(gpu=of.gpu, **sizes), ladders=tuple(_ladder(ladder) for ladder in message.ladders))


def _ladder(message: memory_pb2.ModelLadder) -> ModelLadder:
    names = [rung.placement for rung in message.rungs]
    _require(0 < len(names) <= _MAX_RUNGS and len(set(names)) == len(names), "memory.ladders.rungs must be some, each once")
    weights = message.text_to_video_weights
    _require(not weights or is_name(weights, _MAX_NAME), "memory.ladders.text_to_video_weights is too long, or not printable")
    return ModelLadder(
        model=message.model, rungs=tuple(_rung(rung) for rung in message.rungs), text_to_video_weights=message.text_to_video_weights
    )


def _rung(message: memory_pb2.Rung) -> Rung:
    _require(is_name(message.placement, _MAX_NAME), "memory.ladders.rungs.placement must be set, to something printable")
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
    _require(len(message.modes) <= _MAX_MODES, "memory.ladders.rungs.phases.modes are too many")
    _require(all(is_name(mode, _MAX_NAME) for mode in message.modes), "memory.ladders.rungs.phases.modes must be printable")
    sized = (message.per_token, message.per_pixel, message.per_frame_pixel)
    # What is negative would let a larger request need less, and what is no number nothing at all.
    _require(all(0 <= one <= _MAX_PER_UNIT_BYTES for one in sized), "memory.ladders.rungs.phases must not shrink, nor grow beyond sense")
    _require(abs(message.fixed) <= _MAX_BYTES, f"memory.ladders.rungs.phases.fixed must be {-_MAX_BYTES} to {_MAX_BYTES}")
    per_token, per_pixel, per_frame_pixel = sized
    return PhaseCost(
        phase=MemoryPhase(message.phase),
        weights_bytes=message.weights_bytes,
        activations=Activations(fixed=message.fixed, per_token=per_token, per_pixel=per_pixel, per_frame_pixel=per_frame_pixel),
        modes=tuple(message.modes),
    )


def _require_sizes(where: str, sizes: Iterable[int]) -> None:
    _require(all(0 <= size <= _MAX_BYTES for size in sizes), f"{where} must be 0 to {_MAX_BYTES}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidReportError(message)
