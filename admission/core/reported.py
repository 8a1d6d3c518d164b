"""What a lane says of the attempts that it has: how far they are, how they ended, which of them has the GPU, which it does not have."""

from __future__ import annotations

from admission.core import leases
from admission.core.lanes import Report, Work
from admission.core.state import Assignment, Lane, Turn
from runtime.values import changed


def sort(lane: Lane, report: Report) -> None:
    """Which of its attempts has the GPU is what the lane says: after a restart of admission it may be the other one.

    When a lane changes streams an older report can come after a newer one; what left the GPU is not believed to be back on it.
    """
    work, finishing, other = report.work, report.finishing, lane.finishing
    is_aside = lane.rendering is not None and finishing is not None and finishing.is_of(lane.rendering.lease)
    has_gpu = other is not None and work is not None and work.is_of(other.lease) and not (_has_left_gpu(work) or other.is_gpu_free)
    if is_aside or has_gpu:
        lane.exchange()


def hear(turn: Turn, lane: Lane, report: Report) -> None:
    """Takes in what it says of each attempt, then what it does not say; the caller refreshes the lane."""
    # A lane that is being stopped starts nothing any more: what it does not speak of now, it will never work on.
    has_seen = report.seen_sequence >= lane.settled_sequence or report.draining
    for work in report.works:
        _hear_work(turn, lane, work)
    if has_seen:
        for assignment in lane.assignments:
            _look_for(turn, lane, assignment, report)
    _hear_gpu(turn, lane, report)


def _hear_work(turn: Turn, lane: Lane, work: Work) -> None:
    assignment = lane.assignment(work)
    if assignment is not None and not assignment.is_withdrawn:
        _hear_leased(turn, lane, assignment, work)
    elif assignment is not None:
        if work.outcome is not None:
            leases.end_withdrawn(turn, lane, assignment, work.outcome)
            leases.send_new_wish(turn, lane)
    elif work.outcome is not None and not lane.has_acknowledged(work):
        leases.refuse(turn, lane, work.lease, work.outcome)
        leases.send_new_wish(turn, lane)


def _hear_leased(turn: Turn, lane: Lane, assignment: Assignment, work: Work) -> None:
    task = turn.state.tasks[work.task_id]
    assignment.is_confirmed = True
    if work.outcome is not None:
        leases.settle(turn, lane, assignment, task, work.outcome)
        return
    if assignment.is_gpu_free and not work.gpu_free:
        return
    assignment.is_gpu_free = work.gpu_free
    progress = max(task.progress, min(99, work.progress))
    shown = changed(task, progress=progress, stage=work.stage, stage_detail=work.detail)
    if shown != task:
        # Stored, so that progress does not fall when admission restarts; a clip has a few dozen such changes.
        turn.store(changed(shown, updated_at=turn.now.utc))


def _look_for(turn: Turn, lane: Lane, assignment: Assignment, report: Report) -> None:
    """An attempt that the lane does not name although it was told of it is not there. What waits for the GPU is not named yet."""
    work, finishing = report.work, report.finishing
    waits = assignment is lane.rendering and work is not None
    if waits or (work is not None and work.is_of(assignment.lease)) or (finishing is not None and finishing.is_of(assignment.lease)):
        return
    if assignment.is_withdrawn:
        leases.end_withdrawn(turn, lane, assignment, None)
        leases.send_new_wish(turn, lane)
    else:
        # A lane that is being stopped takes nothing new: nobody's fault, and it does not count.
        reason = "the lane is being stopped" if report.draining else "the lane does not work on it although it had been told to"
        leases.lose(turn, lane, assignment, reason, counts=not report.draining)


def _hear_gpu(turn: Turn, lane: Lane, report: Report) -> None:
    """What needs the GPU no more is moved aside when nothing else is there, at either end; until then its time stands still."""
    assignment, work, other = lane.rendering, report.work, report.finishing
    if work is None or not work.gpu_free or assignment is None or assignment.is_withdrawn or not work.is_of(assignment.lease):
        return
    if lane.finishing is None and (other is None or (other.outcome is not None and lane.has_acknowledged(other))):
        leases.move_aside(turn, lane, assignment)
    elif assignment.waiting_since_s is None:
        assignment.waiting_since_s = turn.now_s


def _has_left_gpu(work: Work) -> bool:
    return work.gpu_free or work.outcome is not None
