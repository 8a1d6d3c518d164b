"""What a lane's report changes: its contact, its health, and the lease it speaks about."""

from __future__ import annotations

from dataclasses import replace

from admission.core import leases
from admission.core.availability import forget_service, refresh
from admission.core.commands import PersistLane
from admission.core.deadlines import Due
from admission.core.lanes import Lease, Report, Work
from admission.core.state import Lane, Turn
from admission.core.tasks import Event, LaneId

# Enough for the processes of one lane id that can be alive at once in a rolling update.
_BOOTS_KEPT = 8


def hear(turn: Turn, report: Report) -> None:
    """Takes in a report. One of an older stream, or of a process that a newer one replaced, is ignored."""
    known = turn.state.lanes.get(report.spec.lane_id)
    if known is not None and (report.session < known.session or report.boot_id in known.past_boots):
        return
    lane = _lane_of(turn, report)
    is_first = report.session > lane.session
    if report.boot_id != lane.boot_id:
        _boot(turn, lane, report)
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
    if not lane.contact_watched:
        lane.contact_watched = True
        turn.state.deadlines.set(turn.now_s + turn.state.limits.contact_s, Due.CONTACT, lane.spec.lane_id)
    before = lane.wish.sequence
    if is_first:
        # What was sent on the older stream may never have come: before the lane saw this answer, nothing it says counts against a lease.
        leases.send_new_wish(turn, lane)
        before = lane.wish.sequence
    _hear_work(turn, lane, report)
    refresh(turn, lane)
    if not is_first and lane.wish.sequence == before and report.seen_sequence < lane.wish.sequence:
        leases.send_wish(turn, lane)


def detach(turn: Turn, lane_id: LaneId, session: int) -> None:
    """The stream ended: nothing can be sent. Contact and lease run out by time, and the next stream goes on."""
    lane = turn.state.lanes.get(lane_id)
    if lane is not None and lane.session == session:
        lane.attached = False


def look_at_contact(turn: Turn, lane: Lane) -> None:
    """Contact may have run out."""
    lane.contact_watched = False
    if lane.reported_at_s is None:
        return
    runs_out_s = lane.reported_at_s + turn.state.limits.contact_s
    if runs_out_s > turn.now_s:
        lane.contact_watched = True
        turn.state.deadlines.set(runs_out_s, Due.CONTACT, lane.spec.lane_id)
    refresh(turn, lane)


def look_at_lease(turn: Turn, lane: Lane) -> None:
    """The lease may have run out."""
    lane.lease_watched = False
    if lane.lease is None and lane.withdrawn is None:
        return
    if lane.lease_expires_at_s > turn.now_s:
        leases.watch(turn, lane)
        return
    leases.lose(turn, lane, f"no report for {turn.state.limits.lease_s:g} s")


def _lane_of(turn: Turn, report: Report) -> Lane:
    """The lane as known, made or brought up to date, and kept."""
    lane_id = report.spec.lane_id
    lane = turn.state.lanes.get(lane_id)
    if lane is None:
        lane = turn.state.lanes[lane_id] = Lane(spec=report.spec, boot_id=report.boot_id)
        turn.emit(PersistLane(spec=report.spec))
        turn.record(Event(event_type="lane_attached", created_at=turn.now.utc, lane_id=lane_id, value=report.spec.mode))
    elif lane.spec != report.spec:
        forget_service(turn, lane)
        lane.spec = report.spec
        turn.emit(PersistLane(spec=report.spec))
    return lane


def _boot(turn: Turn, lane: Lane, report: Report) -> None:
    """The lane's process is a new one: whatever the old one held is over at once."""
    if lane.boot_id and (lane.lease is not None or lane.withdrawn is not None):
        leases.lose(turn, lane, "the lane's process was restarted")
    if lane.boot_id:
        lane.past_boots = (*lane.past_boots[1 - _BOOTS_KEPT :], lane.boot_id)
    lane.boot_id = report.boot_id
    lane.acknowledged = None


def _hear_work(turn: Turn, lane: Lane, report: Report) -> None:
    work = report.work
    has_seen = report.seen_sequence >= lane.settled_sequence
    named = None if work is None else Lease(task_id=work.task_id, attempt=work.attempt)
    if work is not None and named is not None and named == lane.lease:
        _hear_leased(turn, lane, work)
    elif work is not None and named is not None and named == lane.withdrawn:
        if work.outcome is not None:
            leases.end_withdrawn(turn, lane, work.outcome)
            leases.send_new_wish(turn, lane)
    elif work is not None and named is not None:
        if work.outcome is not None and lane.acknowledged != named:
            leases.refuse(turn, lane, named, work.outcome)
            leases.send_new_wish(turn, lane)
    elif has_seen and lane.withdrawn is not None:
        leases.end_withdrawn(turn, lane, None)
        leases.send_new_wish(turn, lane)
    elif has_seen and lane.lease is not None:
        # A lane that is being stopped takes nothing new: nobody's fault, and it does not count.
        leases.lose(turn, lane, "the lane does not work on it although it had been told to", counts=not report.draining)


def _hear_leased(turn: Turn, lane: Lane, work: Work) -> None:
    task = turn.state.tasks[work.task_id]
    if work.outcome is not None:
        leases.settle(turn, lane, task, work.outcome)
        return
    progress = max(task.progress, min(99, work.progress))
    shown = replace(task, progress=progress, stage=work.stage, stage_detail=work.detail)
    if shown != task:
        # Stored, so that progress does not fall when admission restarts; a clip has a few dozen such changes.
        turn.store(replace(shown, updated_at=turn.now.utc))
