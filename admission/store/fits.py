"""A worker's memory as JSON values and back. Names are those of `runtime.fit.cost`; a figure that is 0 by default may be left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase


def memory_json(memory: WorkerMemory) -> dict[str, object]:
    """As JSON values."""
    return asdict(memory)


def memory_of(values: Mapping[str, Any]) -> WorkerMemory:
    """The inverse. What a later release added is passed over, so that one can go back a release."""
    return WorkerMemory(
        limits=DeviceLimits(**_known(DeviceLimits, values["limits"])),
        ladders=tuple(
            ModelLadder(**(_known(ModelLadder, ladder) | {"rungs": tuple(_rung(rung) for rung in ladder["rungs"])}))
            for ladder in values["ladders"]
        ),
    )


def _rung(values: Mapping[str, Any]) -> Rung:
    phases = tuple(
        PhaseCost(
            phase=MemoryPhase(phase["phase"]),
            weights_bytes=phase["weights_bytes"],
            activations=Activations(**_known(Activations, phase["activations"])),
            modes=tuple(phase["modes"]),
        )
        for phase in values["phases"]
    )
    return Rung(**(_known(Rung, values) | {"phases": phases}))


def _known(of: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in of.__dataclass_fields__}
