"""What a lane's report changes: its contact, its health, and the lease it speaks about."""

from __future__ import annotations

from dataclasses import replace

from admission.core import leases, reported
from admission.core.availability import forget_service, note_fits_of, refresh
from admission.core.commands import ForgetLane, PersistLane
from admission.core.deadlines import Due
from admission.core.lanes import KnownLane, LaneSpec, Report
from admission.core.state import Lane, Turn
from admission.core.tasks import Event, LaneId

# Enough for the processes of one lane id that can be alive at once in a rolling update.
_BOOTS_KEPT = 8


def restore(turn: Turn, known: KnownLane) -> None:
    """A lane that is known from before the restart; it may be on its way back."""
    lane = turn.state.lanes[known.spec.lane_id] = Lane(
        spec=known.spec, is_drained=known.is_drained, retired=known.retired, retired_boot=known.retired_boot
    )
    turn.state.place(lane)
    watch_contact(turn, lane, turn.now_s)


def hear(turn: Turn, report: Report) -> None:
    """Takes in a report. One of an older stream, or of a process that a newer one replaced, is ignored."""
    known = turn.state.lanes.get(report.spec.lane_id)
    if known is not None and (report.session < known.session or report.boot_id in known.past_boots):
        return
    lane = _lane_of(turn, report)
    is_first = report.session > lane.session
    if lane.report is None or report.cold_starts != lane.report.cold_starts or report.boot_id != lane.boot_id:
        _note_cold_start(turn, lane, report, is_known=known is not None)
    if report.boot_id != lane.boot_id:
        _boot(turn, lane, report)
    if report.start_failure is not None or lane.failed_causes:
        _note_start_failure(turn, lane, report)
    if lane.report is None or lane.report.object_store_failure != report.object_store_failure:
        _note_object_store(turn, lane, report)
    lane.session = report.session
    lane.attached = True
    lane.report = report
    lane.reported_at_s = turn.now_s
    if report.healthy:
        lane.unhealthy_since_s = None
    elif lane.unhealthy_since_s is None:
        lane.unhealthy_since_s = turn.now_s
        turn.state.deadlines.set(turn.now_s + turn.state.limits.unhealthy_s, Due.HEALTH, lane.spec.lane_id)
    lane.lease_expires_at_s = turn.now_s + turn.state.limits.lease_s
    watch_contact(turn, lane, turn.now_s)
    before = lane.wish.sequence
    reported.sort(lane, report)
    if is_first:
        # What was sent on the older stream may never have come: before the lane saw this answer, nothing it says counts against a lease.
        leases.send_new_wish(turn, lane)
        before = lane.wish.sequence
    reported.hear(turn, lane, report)
    refresh(turn, lane)
    is_told = is_first or turn.unwished is lane or lane.wish.sequence != before
    if not is_told and report.seen_sequence < lane.wish.sequence:
        leases.send_wish(turn, lane)


def detach(turn: Turn, lane_id: LaneId, session: int) -> None:
    """The stream ended: nothing can be sent. Contact and lease run out by time, and the next stream goes on."""
    lane = turn.state.lanes.get(lane_id)
    if lane is not None and lane.session == session:
        lane.attached = False
        # It may be back in a moment, so its queue stays open; but what it cannot hear of is not given to it.
        refresh(turn, lane)


def look_at_contact(turn: Turn, lane: Lane) -> None:
    """Contact may have run out."""
    lane.contact_watched = False
    state = turn.state
    heard_s = _heard_s(turn, lane)
    if heard_s + state.limits.contact_s > turn.now_s:
        watch_contact(turn, lane, heard_s)
    elif not lane.absence_watched:
        lane.absence_watched = True
        state.deadlines.set(heard_s + state.limits.lane_forgotten_s, Due.ABSENCE, lane.spec.lane_id)
    refresh(turn, lane)


def look_at_absence(turn: Turn, lane: Lane) -> None:
    """It may not have been heard of for so long that it is as if it had never been."""
    lane.absence_watched = False
    forgotten_s = _heard_s(turn, lane) + turn.state.limits.lane_forgotten_s
    if turn.now_s < forgotten_s:
        # It came back meanwhile, and may be gone again.
        lane.absence_watched = True
        turn.state.deadlines.set(forgotten_s, Due.ABSENCE, lane.spec.lane_id)
        return
    lane_id = lane.spec.lane_id
    forget_service(turn, lane)
    del turn.state.lanes[lane_id]
    turn.state.fits.changed()
    turn.emit(ForgetLane(lane_id=lane_id))
    turn.record(Event(event_type="lane_forgotten", created_at=turn.now.utc, lane_id=lane_id))


def watch_contact(turn: Turn, lane: Lane, heard_s: float) -> None:
    """Sets the look at the lane's contact, once."""
    if not lane.contact_watched:
        lane.contact_watched = True
        turn.state.deadlines.set(heard_s + turn.state.limits.contact_s, Due.CONTACT, lane.spec.lane_id)


def look_at_lease(turn: Turn, lane: Lane) -> None:
    """The lease may have run out."""
    lane.lease_watched = False
    if not lane.assignments:
        return
    if lane.lease_expires_at_s > turn.now_s:
        leases.watch(turn, lane)
        return
    leases.lose_all(turn, lane, f"no report for {turn.state.limits.lease_s:g} s")


def _heard_s(turn: Turn, lane: Lane) -> float:
    return turn.state.started_at_s if lane.reported_at_s is None else lane.reported_at_s


def _note_cold_start(turn: Turn, lane: Lane, report: Report, *, is_known: bool) -> None:
    """A pipeline process that was not there before. What a lane that the store knew says first is taken as it is."""
    if lane.report is None:
        before = report.cold_starts if is_known else 0
    else:
        before = lane.report.cold_starts if report.boot_id == lane.boot_id else 0
    if report.cold_starts > before:
        event = Event(
            event_type="cold_start", created_at=turn.now.utc, lane_id=lane.spec.lane_id, value=str(report.cold_starts), reason=report.reason
        )
        turn.record(event)


def _note_start_failure(turn: Turn, lane: Lane, report: Report) -> None:
    """It cannot become warm. Each cause is recorded once until it is: a lane tries every 30 s, for days if need be."""
    failure = report.start_failure
    if failure is None:
        if report.warm:
            lane.failed_causes = frozenset()
        return
    if failure.cause in lane.failed_causes:
        return
    lane.failed_causes |= {failure.cause}
    event = Event(
        event_type="cold_start_failed",
        created_at=turn.now.utc,
        lane_id=lane.spec.lane_id,
        value=failure.cause,
        reason=failure.reason,
        attempt=failure.attempts,
    )
    turn.record(event)


def _note_object_store(turn: Turn, lane: Lane, report: Report) -> None:
    """The lane began to wait for the object store, or waits no more. What another process of it said is over."""
    before = lane.report.object_store_failure if lane.report is not None else ""
    if bool(before) is bool(report.object_store_failure):
        return
    event = Event(
        event_type="object_store_away" if report.object_store_failure else "object_store_back",
        created_at=turn.now.utc,
        lane_id=lane.spec.lane_id,
        reason=report.object_store_failure,
    )
    turn.record(event)


def _lane_of(turn: Turn, report: Report) -> Lane:
    """The lane as known, made or brought up to date, and kept."""
    lane_id = report.spec.lane_id
    lane = turn.state.lanes.get(lane_id)
    if lane is None:
        lane = turn.state.lanes[lane_id] = Lane(spec=report.spec)
        turn.state.place(lane)
        turn.emit(PersistLane(lane=lane.known))
        turn.record(Event(event_type="lane_attached", created_at=turn.now.utc, lane_id=lane_id, value=report.spec.mode))
    elif lane.spec != report.spec:
        _respecify(turn, lane, report.spec)
    return lane


def _respecify(turn: Turn, lane: Lane, spec: LaneSpec) -> None:
    """The lane is another than before. What it does not say of its memory, because it has not measured it yet, stays as it was known."""
    known = lane.spec
    if spec.memory is None and known.memory is not None:
        spec = replace(spec, memory=known.memory)
        if spec == known:
            return
    if (spec.mode, spec.models) != (known.mode, known.models):
        forget_service(turn, lane)
    lane.spec = spec
    if spec.memory is not known.memory or spec.models != known.models:
        turn.state.place(lane)
        note_fits_of(turn, lane)
    turn.emit(PersistLane(lane=lane.known))


def _boot(turn: Turn, lane: Lane, report: Report) -> None:
    """The lane's process is a new one: whatever the old one held is over at once."""
    if lane.boot_id and lane.assignments:
        leases.lose_all(turn, lane, "the lane's process was restarted")
    if lane.boot_id:
        lane.past_boots = (*lane.past_boots[1 - _BOOTS_KEPT :], lane.boot_id)
    lane.boot_id = report.boot_id
    lane.booted_at_s = turn.now_s
    lane.acknowledged = ()
    lane.failed_causes = frozenset()
    lane.out_of_memory.clear()
    lane.drifts.clear()
    if lane.retired and lane.retired_boot != report.boot_id:
        lane.retired, lane.retired_boot = (), ""
        turn.state.place(lane)
        note_fits_of(turn, lane)
        turn.emit(PersistLane(lane=lane.known))
