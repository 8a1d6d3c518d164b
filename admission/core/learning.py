"""What the end of an attempt teaches: how much predictions were wrong, how long renders take, which rungs do not hold, what leaks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from admission.core import measured, rescues
from admission.core.availability import note_fits_of
from admission.core.commands import PersistLane, PersistLearned
from admission.core.fit import shape_key, shape_of
from admission.core.lanes import Outcome
from admission.core.learned import Learned, Place
from admission.core.state import Lane, Turn
from admission.core.tasks import Event, MemoryRecord, Model, Task
from runtime.fit.cost import PhaseCost, Rung, Shape

MAX_CORRECTION = 2.0
"""Predictions come from traces of the real network; what is more than twice as much is a mistake in the measuring, and believing it would
refuse requests that fit."""

# A correction is written only when it rises by more than this part, so that noise of the last bytes costs no write.
_LEAST_RISE = 1e-3

RETIRED_AFTER = 3
"""Times in a row that a placement may run out of memory on one lane."""

DRIFT_ATTEMPTS = 5
DRIFT_ALLOWANCE_BYTES = 64 * 1024**2
"""What may stay on the device after attempts without being told: caches and workspaces that libraries keep are less."""


def restore(turn: Turn, learned: Sequence[Learned]) -> None:
    """Takes over what was learned before the restart."""
    turn.state.fits.restore(learned)
    turn.state.times.restore(learned)


def learn(turn: Turn, lane: Lane, task: Task, outcome: Outcome) -> None:
    """An attempt of the task ended on the lane; its memory record is recorded already."""
    record = outcome.memory
    if record.unmeasured_reason:
        _learn_time(turn, task, outcome, None)
        return
    placement = measured.placement(record)
    place = Place(lane.gpu, task.model, placement) if placement and lane.gpu else None
    if place is not None:
        _learn_peaks(turn, lane, task, place, record)
    _learn_time(turn, task, outcome, place)
    _count_out_of_memory(turn, lane, task.model, outcome)
    _watch_drift(turn, lane, task.model, measured.drift_bytes(record))
    _tell_residency(turn, lane, record)


def _learn_time(turn: Turn, task: Task, outcome: Outcome, place: Place | None) -> None:
    """Of a render that ended well. The time of a switch before it is none of its own, and one that had to begin anew is no measure."""
    if outcome.result is None or outcome.render_s is None or measured.out_of_memory(outcome.memory):
        return
    for learned_at in turn.state.times.observe(task, outcome.render_s - measured.switch_s(outcome.memory), place):
        _persist(turn, learned_at)


def _learn_peaks(turn: Turn, lane: Lane, task: Task, place: Place, record: MemoryRecord) -> None:
    """Raises the corrections of the phases that took more than predicted."""
    group, key = lane.groups.get(task.model), shape_key(task)
    rung = None if group is None else group.rung(place.placement)
    if rung is None or key is None:
        return
    shape, known = shape_of(key), turn.state.fits.corrections(place)
    raised = dict(known)
    for cost, peak_bytes in _peaks(rung, shape, record, lane.budget_bytes):
        activation_bytes = cost.activations.bytes_at(shape)
        if activation_bytes > 0:
            factor = min(MAX_CORRECTION, (peak_bytes - cost.weights_bytes) / activation_bytes)
            if factor > raised.get(cost.phase, 1.0) * (1 + _LEAST_RISE):
                raised[cost.phase] = factor
    if raised != known:
        turn.state.fits.correct(place, raised)
        _persist(turn, place)
        rescues.note_fits(turn, task.model)


def _peaks(rung: Rung, shape: Shape, record: MemoryRecord, budget_bytes: int) -> list[tuple[PhaseCost, int]]:
    """The phases that happened, with what was measured. What the allocator held counts for the highest of them, and only beyond the budget:
    below, it holds what nobody needs any more."""
    peaks = measured.phase_peaks(record)
    found = [(cost, peaks[cost.phase]) for cost in rung.phases if cost.phase in peaks and (not cost.modes or shape.mode in cost.modes)]
    reserved_bytes = measured.peak_reserved_bytes(record) or 0
    if found and reserved_bytes > budget_bytes:
        highest = max(found, key=lambda one: one[1])
        found.append((highest[0], reserved_bytes))
    return found


def _persist(turn: Turn, place: Place) -> None:
    state = turn.state
    learned = Learned(place=place, corrections=state.fits.corrections(place), rate=state.times.rate(place))
    turn.emit(PersistLearned(learned=learned))


def _count_out_of_memory(turn: Turn, lane: Lane, model: Model, outcome: Outcome) -> None:
    """A placement that runs out of memory again and again on this lane, with no success between, is not used until its next boot."""
    counts = lane.out_of_memory
    for placement in measured.out_of_memory(outcome.memory):
        counts[model, placement] = counts.get((model, placement), 0) + 1
        if counts[model, placement] >= RETIRED_AFTER:
            _retire(turn, lane, model, placement)
    if outcome.result is not None:
        counts.pop((model, measured.placement(outcome.memory)), None)


def _retire(turn: Turn, lane: Lane, model: Model, placement: str) -> None:
    """Takes the rung out of use. The last one stays: a lane without any would refuse everything for a fault of its own."""
    group = lane.groups.get(model)
    if group is None or placement not in group.placements or len(group.placements) == 1:
        return
    lane.retired, lane.retired_boot = (*lane.retired, (model, placement)), lane.boot_id
    turn.state.place(lane)
    note_fits_of(turn, lane)
    turn.emit(PersistLane(lane=lane.known))
    turn.record(
        Event(
            event_type="placement_retired",
            created_at=turn.now.utc,
            lane_id=lane.spec.lane_id,
            model=model,
            value=placement,
            reason=f"it ran out of memory {RETIRED_AFTER} times in a row; not used here until the lane is restarted",
        )
    )


def _watch_drift(turn: Turn, lane: Lane, model: Model, drift_bytes: int | None) -> None:
    """Tells of memory that stays, when it grew over some attempts and is more than it may be; then counts anew."""
    if drift_bytes is None:
        return
    drifts = (*lane.drifts.get(model, ()), drift_bytes)[-DRIFT_ATTEMPTS:]
    lane.drifts[model] = drifts
    is_rising = all(one <= other for one, other in pairwise(drifts)) and drifts[0] < drifts[-1]
    if len(drifts) < DRIFT_ATTEMPTS or not is_rising or drift_bytes <= DRIFT_ALLOWANCE_BYTES:
        return
    lane.drifts[model] = ()
    turn.record(
        Event(
            event_type="memory_drift",
            created_at=turn.now.utc,
            lane_id=lane.spec.lane_id,
            model=model,
            value=str(drift_bytes),
            reason=f"what stays on the device after an attempt rose over {DRIFT_ATTEMPTS} attempts",
        )
    )


def _tell_residency(turn: Turn, lane: Lane, record: MemoryRecord) -> None:
    """A switch of the resident model is an event of the lane; its figures are in the attempt's memory record."""
    change = measured.residency_change(record)
    if change is None:
        return
    loaded, released = (str(change.get(name) or "") for name in ("loaded_model", "released_model"))
    parts = [f"released {released}" if released else "nothing was resident"]
    if change.get("process_replaced"):
        parts.append("its memory did not come back, so the process was replaced")
    turn.record(
        Event(
            event_type="residency_changed",
            created_at=turn.now.utc,
            lane_id=lane.spec.lane_id,
            model=Model(loaded) if loaded else None,
            value=f"{measured.switch_s(record):.3f}",
            reason="; ".join(parts),
        )
    )
