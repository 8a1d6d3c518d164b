"""What the figures of a memory record say. They come from a lane as JSON: what is missing or of another type counts as unknown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from admission.core.tasks import MemoryRecord


def placement(record: MemoryRecord) -> str:
    """Of the last try; empty when there was none."""
    found = record.figures.get("placement")
    return found if isinstance(found, str) else ""


def phase_peaks(record: MemoryRecord) -> dict[str, int]:
    """The highest allocated bytes of each phase of the last try."""
    return {
        phase: peak
        for one in _messages(record, "phase_peaks")
        if isinstance(phase := one.get("phase"), str) and (peak := _bytes(one, "peak_bytes")) is not None
    }


class RanOut(NamedTuple):
    """The memory ran out. `peak_bytes` were allocated by then, of a budget of `budget_bytes`; both are 0 when nobody said so."""

    placement: str
    phase: str
    peak_bytes: int
    budget_bytes: int


def out_of_memory(record: MemoryRecord) -> tuple[RanOut, ...]:
    """Every time the memory ran out, oldest first."""
    if "out_of_memory" not in record.figures:
        return ()
    return tuple(
        RanOut(placement, phase, _bytes(one, "peak_bytes") or 0, _bytes(one, "budget_bytes") or 0)
        for one in _messages(record, "out_of_memory")
        if isinstance(placement := one.get("placement"), str) and placement and isinstance(phase := one.get("phase"), str)
    )


def drift_bytes(record: MemoryRecord) -> int | None:
    """What stayed alive after cleanup beyond the least that did before."""
    return _bytes(record.figures, "drift_bytes")


def residency_change(record: MemoryRecord) -> Mapping[str, object] | None:
    """The switch that preceded the attempt; None: there was none."""
    found = record.figures.get("residency_change")
    if found is None:
        # Of most. The question below is a slow one.
        return None
    return found if isinstance(found, Mapping) else None


def switch_s(record: MemoryRecord) -> float:
    """How long that switch took; 0 without one."""
    change = residency_change(record)
    if change is None:
        return 0.0
    return sum(seconds(change.get(name)) for name in ("release_duration", "load_duration"))


def seconds(value: object) -> float:
    """A duration as JSON spells it, `1.5s`; 0 for anything else."""
    if not isinstance(value, str) or not value.endswith("s"):
        return 0.0
    try:
        found = float(value[:-1])
    except ValueError:
        return 0.0
    # Neither negative nor infinite nor no number.
    return found if 0.0 <= found < 1e9 else 0.0


def _messages(record: MemoryRecord, name: str) -> Iterator[Mapping[str, object]]:
    found = record.figures.get(name)
    for one in found if isinstance(found, list | tuple) else ():
        if isinstance(one, Mapping):
            yield one


def _bytes(of: Mapping[str, object], name: str) -> int | None:
    """A count of bytes. The JSON form of protobuf spells 64-bit numbers as texts; both are understood."""
    found = of.get(name)
    if isinstance(found, str) and found.isdecimal():
        return int(found)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
