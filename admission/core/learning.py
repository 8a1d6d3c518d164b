"""What the end of an attempt teaches: how much predictions were wrong, how long renders take, which rungs do not hold, what leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from admission.core import excess, measured, rescues
from admission.core.availability import note_fits_of
from admission.core.commands import PersistLane, PersistLearned
from admission.core.fit import shape_key, shape_of
from admission.core.lanes import Outcome
from admission.core.learned import Learned, Place
from admission.core.state import Assignment, Lane, Turn
from admission.core.tasks import Event, FailureCode, MemoryRecord, Model, Task
from runtime.fit.cost import Rung, Shape

# An excess is written only when it rises by more than this, so that noise of the last bytes costs no write.
_LEAST_RISE_BYTES = 1024**2

_TELLING_PROGRESS = 10
"""Percent. What a render that was ended earlier would have taken cannot be told from its progress."""

RETIRED_AFTER = 3
"""Times in a row that a placement may run out of memory on one lane."""

DRIFT_ATTEMPTS = 5
DRIFT_ALLOWANCE_BYTES = 64 * 1024**2
"""What may stay on the device after attempts without being told: caches and workspaces that libraries keep are less."""


def restore(turn: Turn, learned: Sequence[Learned]) -> None:
    """Takes over what was learned before the restart."""
    turn.state.fits.restore(learned)
    turn.state.times.restore(learned)


def learn(turn: Turn, lane: Lane, assignment: Assignment, task: Task, outcome: Outcome) -> None:
    """An attempt of the task ended on the lane; its memory record is recorded already."""
    record = outcome.memory
    if record.unmeasured_reason:
        _learn_time(turn, assignment, task, outcome, None)
        return
    placement, ran_out = measured.placement(record), measured.out_of_memory(record)
    place = Place(lane.gpu, task.model, placement) if placement and lane.gpu else None
    if placement or ran_out:
        _learn_peaks(turn, lane, task, record)
    # The time of one that had to begin anew is no measure.
    if not ran_out:
        _learn_time(turn, assignment, task, outcome, place)
    if ran_out or lane.out_of_memory:
        _count_out_of_memory(turn, lane, task.model, outcome)
    _watch_drift(turn, lane, task.model, measured.drift_bytes(record))
    _tell_residency(turn, lane, record)


def _learn_time(turn: Turn, assignment: Assignment, task: Task, outcome: Outcome, place: Place | None) -> None:
    """The time of a switch before a render is none of its own."""
    render_s = outcome.render_s if outcome.result is not None else _estimated_s(assignment, task, outcome)
    if render_s is None:
        return
    for learned_at in turn.state.times.observe(task, render_s - measured.switch_s(outcome.memory), place):
        _persist(turn, learned_at)


def _estimated_s(assignment: Assignment, task: Task, outcome: Outcome) -> float | None:
    """How long a render without a result would have taken, by how far it had come when its deadline passed: the next one like it
    gets a longer deadline, or is refused when there is none. None: nothing can be said, as of one that waited for the object store."""
    is_overdue = outcome.failure is not None and outcome.failure.code is FailureCode.DEADLINE_EXCEEDED
    deadline_s = assignment.render_deadline_s
    if not is_overdue or assignment.is_gpu_free or task.progress < _TELLING_PROGRESS or deadline_s <= 0:
        return None
    return deadline_s * 100 / task.progress


def _learn_peaks(turn: Turn, lane: Lane, task: Task, record: MemoryRecord) -> None:
    """Raises what is expected of the phases that took more than predicted, on the placements that they took it on."""
    key = shape_key(task)
    if key is None or not lane.gpu:
        return
    is_changed, seen = False, _seen(record, lane.budget_bytes)
    for placement, peaks in seen.items():
        place, rung = Place(lane.gpu, task.model, placement), _rung(lane, task.model, placement)
        if rung is not None and _learn_rung(turn, place, rung, shape_of(key), peaks):
            _persist(turn, place)
            is_changed = True
    if is_changed:
        rescues.note_fits(turn, task.model)


def _learn_rung(turn: Turn, place: Place, rung: Rung, shape: Shape, peaks: Mapping[str, int]) -> bool:
    """Whether anything new was learned about a placement."""
    known = turn.state.fits.excesses(place)
    raised = dict(known)
    for cost in rung.phases:
        if cost.phase in peaks and (not cost.modes or shape.mode in cost.modes):
            activation_bytes = cost.activations.bytes_at(shape)
            taken_bytes = peaks[cost.phase] - cost.weights_bytes
            found = excess.raised(known.get(cost.phase, {}), activation_bytes, taken_bytes)
            if found is not None and _is_worth_it(known.get(cost.phase, {}), found):
                raised[cost.phase] = found
    if raised == known:
        return False
    turn.state.fits.correct(place, raised)
    return True


def _is_worth_it(known: excess.Excess, found: excess.Excess) -> bool:
    """A class that was not measured before, or a rise that is more than noise."""
    return any(size not in known or over_bytes > known[size] + _LEAST_RISE_BYTES for size, over_bytes in found.items())


def _rung(lane: Lane, model: Model, placement: str) -> Rung | None:
    group = lane.groups.get(model)
    return None if group is None else group.rung(placement)


def _seen(record: MemoryRecord, budget_bytes: int) -> dict[str, dict[str, int]]:
    """The peak of each phase, by placement: of the last try as measured, and of each that ran out of memory.

    What ran out would have taken more than the whole budget; but if the lane had less than its budget then, because another process took of
    its GPU, only what was allocated by then is known. What torch's allocator held counts nowhere: it keeps what nobody needs any more.
    """
    found: dict[str, dict[str, int]] = {}
    placement = measured.placement(record)
    if placement:
        found[placement] = dict(measured.phase_peaks(record))
    for one in measured.out_of_memory(record):
        least_bytes = budget_bytes + 1 if 0 < budget_bytes <= one.budget_bytes else one.peak_bytes
        peaks = found.setdefault(one.placement, {})
        peaks[one.phase] = max(peaks.get(one.phase, 0), one.peak_bytes, least_bytes)
    return found


def _persist(turn: Turn, place: Place) -> None:
    state = turn.state
    learned = Learned(place=place, excesses=state.fits.excesses(place), rate=state.times.rate(place))
    turn.emit(PersistLearned(learned=learned))


def _count_out_of_memory(turn: Turn, lane: Lane, model: Model, outcome: Outcome) -> None:
    """A placement that runs out of memory again and again on this lane, with no success between, is not used until its next boot."""
    counts = lane.out_of_memory
    for placement in [one.placement for one in measured.out_of_memory(outcome.memory)]:
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
