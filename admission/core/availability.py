"""Whether a lane can be given work, and the lists of those that can."""

from __future__ import annotations

from admission.core import rescues
from admission.core.lanes import Availability
from admission.core.state import Lane, State, Turn
from admission.core.tasks import Event, LaneId, LaneMode, Model


def availability(state: State, lane: Lane, now_s: float) -> tuple[Availability, str]:
    """The availability and, unless it is ready, why. A denied quota says nothing about a lane that is in contact: it runs already."""
    report, limits = lane.report, state.limits
    if report is None or lane.reported_at_s is None or now_s >= lane.reported_at_s + limits.contact_s:
        if any(state.is_quota_denied(model, now_s) for model in lane.spec.models):
            return Availability.UNAVAILABLE, "not in contact, and the quota for its model is denied"
        if report is None:
            return Availability.COLD, "not in contact since admission started"
    if lane.unhealthy_since_s is not None and now_s >= lane.unhealthy_since_s + limits.unhealthy_s:
        return Availability.UNAVAILABLE, report.reason or "its health check fails"
    if lane.reported_at_s is None or now_s >= lane.reported_at_s + limits.contact_s:
        return Availability.COLD, f"out of contact for more than {limits.contact_s:g} s"
    if not report.healthy:
        return Availability.COLD, report.reason or "its health check fails"
    if lane.is_drained:
        return Availability.COLD, "drained by an operator"
    if report.draining:
        return Availability.COLD, "it is being stopped"
    if not report.warm:
        return Availability.COLD, report.reason or "not warm yet"
    return Availability.READY, ""


def is_idle(lane: Lane) -> bool:
    """It can be told to begin: its stream is open, nothing has its GPU or shall have it, nothing that it was told to stop goes on there."""
    if not lane.attached or lane.rendering is not None or lane.report is None:
        return False
    work, finishing = lane.report.work, lane.finishing
    if work is None or (work.outcome is not None and lane.has_acknowledged(work)):
        return True
    # It has not seen yet that this attempt is moved aside; the wish that says so brings the next lease.
    is_moved = finishing is not None and not finishing.is_withdrawn and work.is_of(finishing.lease)
    return is_moved and (work.gpu_free or work.outcome is not None)


def refresh(turn: Turn, lane: Lane) -> None:
    """Puts the lane on the lists where it belongs now; call it after every change of the lane and when its contact may have run out."""
    state = turn.state
    status, reason = availability(state, lane, turn.now_s)
    ready = status is Availability.READY
    key = _list_of(lane)
    serves = ready and (key is None or not state.policies[key].is_fallback_manual)
    lane_id, lanes = lane.spec.lane_id, state.ready[key]
    has_changed = (lane_id in lanes) is not serves
    if has_changed:
        _put(lanes, lane_id, present=serves)
    idle, lanes = serves and is_idle(lane), state.idle[key]
    if (lane_id in lanes) is not idle:
        _put(lanes, lane_id, present=idle)
    if ready is not lane.is_ready:
        lane.is_ready = ready
        event_type = "lane_ready" if ready else "lane_not_ready"
        # How long it took from the first word of its process: the cold start as admission saw it.
        value = f"{turn.now_s - lane.booted_at_s:.3f}" if ready else status.value
        turn.record(Event(event_type=event_type, created_at=turn.now.utc, lane_id=lane.spec.lane_id, value=value, reason=reason))
    if has_changed and key is not None:
        note_service(turn, key)
        rescues.note_fits(turn, key)


def note_taken(turn: Turn, lane: Lane) -> None:
    """The lane was idle and has work now: nothing else about it changed."""
    del turn.state.idle[_list_of(lane)][lane.spec.lane_id]


def _list_of(lane: Lane) -> Model | None:
    """The key of the lists on which it may be."""
    spec = lane.spec
    return None if spec.mode is LaneMode.DEGRADED_SHARED else spec.models[0]


def note_fits_of(turn: Turn, lane: Lane) -> None:
    """What fits the lane changed: so may have what of its model's queue fits no ready lane."""
    if not lane.is_pool:
        rescues.note_fits(turn, lane.spec.models[0])


def forget_service(turn: Turn, lane: Lane) -> None:
    """Takes the lane off every list, before what it serves changes."""
    for lists in (turn.state.ready, turn.state.idle):
        for lanes in lists.values():
            lanes.pop(lane.spec.lane_id, None)
    lane.is_ready = False
    if not lane.is_pool:
        note_service(turn, lane.spec.models[0])


def _put(lanes: dict[LaneId, None], lane_id: LaneId, *, present: bool) -> None:
    if present:
        lanes[lane_id] = None
    else:
        del lanes[lane_id]


def note_service(turn: Turn, model: Model) -> None:
    """Keeps since when the model has no ready lane; that starts the time after which its tasks are rescued."""
    state = turn.state
    if state.ready.get(model):
        state.unserved_since_s.pop(model, None)
    elif model not in state.unserved_since_s:
        state.unserved_since_s[model] = turn.now_s
        rescues.watch(turn, model, turn.now_s + state.limits.rescue_after_s)
