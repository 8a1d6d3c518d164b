"""A lease from its giving to its end: assigned, settled, lost or withdrawn. The attempt number fences every late word about it."""

from __future__ import annotations

from admission.core import learning, rescues
from admission.core.availability import note_taken, refresh
from admission.core.commands import DiscardAttempt, ReplyAccepted, SendWish
from admission.core.deadlines import Due
from admission.core.fit import ANYHOW, shape_key
from admission.core.lanes import Lease, Outcome, Wish
from admission.core.learned import Place
from admission.core.routing import leave_held
from admission.core.state import Assignment, Lane, Turn
from admission.core.tasks import Event, Failure, FailureCode, LaneMode, MemoryRecord, Stage, Task, TaskState, moved
from runtime.values import changed

LOST_MESSAGE = "The GPU worker was lost three times while rendering. Please try again."
NOT_SERVED = Failure(code=FailureCode.NOT_SERVED, message="No GPU worker became free for this task within an hour. Please try again later.")


def assign(turn: Turn, lane: Lane, task: Task) -> None:
    """Gives the lane the next attempt. A held request is accepted by this: the same write makes it durable and leased."""
    state, now = turn.state, turn.now
    was_held = task.state is TaskState.HELD
    _leave_waiting(turn, task, is_turn=not lane.is_pool)
    degraded = lane.spec.mode is LaneMode.DEGRADED_SHARED
    leased = moved(
        task,
        TaskState.LEASED,
        now.utc,
        queued_at=task.queued_at or now.utc,
        leased_at=now.utc,
        attempt=task.attempt + 1,
        lane_id=lane.spec.lane_id,
        boot_id=lane.boot_id,
        lane_mode=lane.spec.mode,
        fallback_reason=task.fallback_reason if degraded else None,
        progress=0,
        stage=Stage.DISPATCH,
        stage_detail="",
    )
    turn.store(leased, accepts=was_held)
    if was_held:
        turn.record(_event(leased, turn, "accepted", value=lane.spec.mode))
    if degraded:
        state.counters.fallbacks += 1
        turn.record(_event(leased, turn, "fallback_activated", value=LaneMode.DEGRADED_SHARED, reason=leased.fallback_reason or ""))
    turn.record(_event(leased, turn, "attempt_started", value=lane.spec.lane_id))
    if was_held:
        state.counters.accepted += 1
        turn.emit(ReplyAccepted(task=leased))
    lane.rendering = Assignment(lease=lease_on(lane, leased), given_s=turn.now_s)
    if lane.finishing is None:
        # What it finishes has its time from the lane's last report; a new lease beside it gives it no more.
        lane.lease_expires_at_s = turn.now_s + state.limits.lease_s
    watch(turn, lane)
    set_render_deadline(turn, lane, lane.rendering, leased)
    send_new_wish(turn, lane)
    note_taken(turn, lane)


def lease_on(lane: Lane, task: Task) -> Lease:
    """The lease of the task's present attempt there, with what is predicted of it."""
    fit = lane.fit(task.model, shape_key(task)) or ANYHOW
    return Lease(task_id=task.task_id, attempt=task.attempt, placement=fit.placement, predicted_peak_bytes=fit.peak_bytes)


def move_aside(turn: Turn, lane: Lane, assignment: Assignment) -> None:
    """The attempt that had the GPU goes on without it, beside whatever the lane gets next. The caller refreshes the lane."""
    lane.rendering, lane.finishing = None, assignment
    if assignment.waiting_since_s is not None:
        assignment.render_until_s += turn.now_s - assignment.waiting_since_s
        assignment.waiting_since_s = None
    send_new_wish(turn, lane)


def settle(turn: Turn, lane: Lane, assignment: Assignment, task: Task, outcome: Outcome) -> None:
    """The lane says how a lease ended: one commit, once. The acknowledgement follows it to disk, with the wish that
    the end of the turn sends at the latest. The caller refreshes the lane."""
    lane.drop(assignment)
    _acknowledge(lane, assignment.lease)
    _remember_memory(turn, lane, assignment.lease, outcome.memory)
    learning.learn(turn, lane, assignment, task, outcome)
    failure = outcome.failure
    if outcome.result is not None:
        done = moved(
            task, TaskState.DONE, turn.now.utc, progress=100, stage=Stage.COMPLETED, stage_detail="", result=outcome.result, failure=None
        )
        turn.record(_event(task, turn, "attempt_ended", value="done"))
        turn.record(_event(task, turn, "ended", value=TaskState.DONE))
        turn.store(done)
    elif failure is not None and failure.code is FailureCode.LANE_LOST:
        # The pipeline's process died under it: the lane itself lives, but this attempt is as lost as with its machine.
        _run_again(turn, lane, task, reason=failure.message, counts=True, was_started=True)
    elif failure is not None and failure.code is FailureCode.CANCELLED:
        # The lane gave it up on its own (it is being stopped): nobody's fault, and it does not count.
        _run_again(turn, lane, task, reason=failure.message, counts=False, was_started=True)
    else:
        failure = failure or Failure(code=FailureCode.RENDER_FAILED, message="The render ended without a result.")
        turn.record(_event(task, turn, "attempt_ended", value=failure.code))
        fail(turn, task, failure)
    # One wish tells of this end and of the lease that the lane gets now, if it gets one.
    turn.unwished = lane


def lose_all(turn: Turn, lane: Lane, reason: str) -> None:
    """The lane is gone with everything that it had. The one that is finished was given first: it runs again first."""
    for assignment in lane.assignments:
        lose(turn, lane, assignment, reason)


def lose(turn: Turn, lane: Lane, assignment: Assignment, reason: str, *, counts: bool = True) -> None:
    """The lane has this attempt no more: the task runs again, or fails at the third loss that counts.

    A lease that the lane never took up (it said nothing of it) was no execution: it does not count, and the task waits on as before.
    """
    if assignment.is_withdrawn:
        end_withdrawn(turn, lane, assignment, None, reason)
        refresh(turn, lane)
        return
    lane.drop(assignment)
    lease, was_started = assignment.lease, assignment.is_confirmed
    refresh(turn, lane)
    task = turn.state.tasks.get(lease.task_id)
    if task is None:
        return
    turn.record(_unmeasured(turn, lane, lease, reason))
    _run_again(turn, lane, task, reason=reason, counts=counts and was_started, was_started=was_started)
    send_new_wish(turn, lane)
    refresh(turn, lane)


def withdraw(turn: Turn, lane: Lane, assignment: Assignment) -> None:
    """Takes the lease back (cancelled or overdue). Its place on the lane stays taken until the lane says that it ended."""
    assignment.is_withdrawn = True
    send_new_wish(turn, lane)
    refresh(turn, lane)


def end_withdrawn(
    turn: Turn, lane: Lane, assignment: Assignment, outcome: Outcome | None, reason: str = "the lane had not started it or forgot it"
) -> None:
    """What was withdrawn has ended on the lane, with an outcome that nobody wants or without a word (for this reason)."""
    lane.drop(assignment)
    lease = assignment.lease
    task = turn.state.withdrawn.get(lease.task_id)
    if task is not None:
        turn.store(changed(task, is_withdrawn=False))
    if outcome is None:
        turn.record(_unmeasured(turn, lane, lease, reason))
    else:
        _acknowledge(lane, lease)
        lane.last_memory = outcome.memory
        turn.record(_memory_event(turn, lane, lease, outcome.memory))
        if task is not None:
            learning.learn(turn, lane, assignment, task, outcome)
    turn.emit(DiscardAttempt(task_id=lease.task_id, attempt=lease.attempt))


def refuse(turn: Turn, lane: Lane, stale: Lease, outcome: Outcome) -> None:
    """An outcome of an attempt that is not the lane's any more (fencing): nothing is committed, its files are removed."""
    if stale in lane.acknowledged:
        return
    if stale.task_id in turn.state.tasks:
        # Of a task that the core does not know nothing can be said: it may have been committed by this very attempt, before a restart.
        turn.record(
            Event(
                event_type="attempt_refused",
                created_at=turn.now.utc,
                task_id=stale.task_id,
                attempt=stale.attempt,
                lane_id=lane.spec.lane_id,
                value="done" if outcome.result is not None else "failed",
                reason="another attempt is current, or the task ended",
                memory=outcome.memory,
            )
        )
    turn.emit(DiscardAttempt(task_id=stale.task_id, attempt=stale.attempt))
    _acknowledge(lane, stale)


def fail(turn: Turn, task: Task, failure: Failure, *, is_withdrawn: bool = False) -> None:
    """The task ends without a result; `is_withdrawn`: while a lane may still work on it."""
    state = TaskState.CANCELLED if failure.code is FailureCode.CANCELLED else TaskState.FAILED
    turn.record(_event(task, turn, "ended", value=state, reason=failure.code))
    turn.store(moved(task, state, turn.now.utc, stage=Stage.FAILED, stage_detail="", failure=failure, is_withdrawn=is_withdrawn))


def send_new_wish(turn: Turn, lane: Lane) -> None:
    """Tells the lane what is wanted of it now."""
    if turn.unwished is lane:
        turn.unwished = None
    rendering, finishing = lane.rendering, lane.finishing
    lease = None if rendering is None or rendering.is_withdrawn else rendering.lease
    before, newest = (None, None, *lane.acknowledged)[-2:]
    lane.settled_sequence = sequence = lane.wish.sequence + 1
    lane.wish = Wish(
        sequence=sequence,
        lease=lease,
        acknowledged=newest,
        acknowledged_before=before,
        finishing=None if finishing is None or finishing.is_withdrawn else finishing.lease,
        render_deadline_s=0.0 if lease is None or rendering is None else rendering.render_deadline_s,
        drain=lane.is_drained,
    )
    send_wish(turn, lane)


def send_wish(turn: Turn, lane: Lane) -> None:
    """Sends the present wish (again); without a stream the first report of the next one asks for it."""
    if lane.attached:
        turn.emit(SendWish(lane_id=lane.spec.lane_id, session=lane.session, wish=lane.wish))


def set_render_deadline(turn: Turn, lane: Lane, assignment: Assignment, task: Task) -> None:
    """Fixes how long the render may take, from the giving of its lease on."""
    limits = turn.state.limits
    gpu, placement = lane.gpu, assignment.lease.placement
    place = Place(gpu, task.model, placement) if gpu and placement else None
    expected_s = turn.state.times.generous_s(task, place, gpu) or 0.0
    longest_s = max(limits.render_deadline_s, limits.render_deadline_factor * expected_s)
    assignment.render_deadline_s = deadline_s = min(limits.render_deadline_max_s, longest_s)
    assignment.render_until_s = assignment.given_s + deadline_s + limits.render_grace_s
    watch_render(turn, lane)


def overdue_s(lane: Lane, assignment: Assignment) -> float:
    """When the render is given up. While it waits for what is finished its time stands still, to that one's end at most."""
    if assignment.waiting_since_s is None or lane.finishing is None or lane.finishing is assignment:
        return assignment.render_until_s
    left_s = assignment.render_until_s - assignment.waiting_since_s
    return max(assignment.render_until_s, lane.finishing.render_until_s + left_s)


def watch_render(turn: Turn, lane: Lane) -> None:
    """Sets the look at the next deadline of a render; a look that is set for later does nothing then."""
    due_s: float | None = None
    for assignment in lane.assignments:
        if not assignment.is_withdrawn:
            until_s = overdue_s(lane, assignment)
            due_s = until_s if due_s is None else min(due_s, until_s)
    if due_s is not None and (lane.render_look_s is None or due_s < lane.render_look_s):
        lane.render_look_s = due_s
        turn.state.deadlines.set(due_s, Due.RENDER, lane.spec.lane_id)


def watch(turn: Turn, lane: Lane) -> None:
    """Sets the look at the lease's expiry, once."""
    if not lane.lease_watched:
        lane.lease_watched = True
        turn.state.deadlines.set(lane.lease_expires_at_s, Due.LEASE, lane.spec.lane_id)


def _acknowledge(lane: Lane, lease: Lease) -> None:
    """A lane has two attempts at most, and begins no third before it saw a wish that acknowledges one: the last two are enough."""
    known = lane.acknowledged
    lane.acknowledged = (*known[-1:], lease) if lease not in known else (*(one for one in known if one != lease), lease)


def _leave_waiting(turn: Turn, task: Task, *, is_turn: bool) -> None:
    state = turn.state
    state.leave_queue(task.task_id)
    if task.state is TaskState.HELD:
        leave_held(state, task.task_id)
    else:
        state.queues[task.model].take(task.task_id, task.owner, is_turn=is_turn)


def _run_again(turn: Turn, lane: Lane, task: Task, *, reason: str, counts: bool, was_started: bool) -> None:
    """Back to the head of its queue, or failed when too many lanes were lost under it."""
    state = turn.state
    lost = task.lost_lanes + counts
    turn.emit(DiscardAttempt(task_id=task.task_id, attempt=task.attempt))
    if counts:
        state.counters.lanes_lost += 1
        turn.record(_event(task, turn, "lane_lost", value=str(lost), reason=reason))
    else:
        turn.record(_event(task, turn, "lease_returned", reason=reason))
    if lost >= state.limits.max_lost_lanes:
        fail(turn, changed(task, lost_lanes=lost), Failure(code=FailureCode.LANE_LOST, message=LOST_MESSAGE))
        return
    queued_at = turn.now.utc if was_started or task.queued_at is None else task.queued_at
    unserved_at_s = turn.now.since_of(queued_at) + state.limits.not_served_s
    if turn.now_s >= unserved_at_s:
        # Its time ran out under a lease that the lane never took up.
        fail(turn, task, NOT_SERVED)
        return
    waiting = moved(
        changed(task, lost_lanes=lost),
        TaskState.QUEUED,
        turn.now.utc,
        queued_at=queued_at,
        lane_mode=None,
        progress=0,
        stage=Stage.QUEUED,
        stage_detail="waiting to run again",
    )
    turn.store(waiting)
    state.queues[task.model].push_head(task.task_id)
    turn.watch_unserved(waiting, unserved_at_s)
    rescues.note_fit(turn, waiting)
    if lane.is_pool:
        rescues.offer_first(turn, waiting)
    else:
        rescues.watch(turn, task.model, turn.now_s + state.limits.rescue_after_s)


def _remember_memory(turn: Turn, lane: Lane, lease: Lease, memory: MemoryRecord) -> None:
    lane.last_memory = memory
    turn.record(_memory_event(turn, lane, lease, memory))


def _unmeasured(turn: Turn, lane: Lane, lease: Lease, reason: str) -> Event:
    return _memory_event(turn, lane, lease, MemoryRecord(unmeasured_reason=reason))


def _memory_event(turn: Turn, lane: Lane, lease: Lease, memory: MemoryRecord) -> Event:
    return Event(
        event_type="memory_record",
        created_at=turn.now.utc,
        task_id=lease.task_id,
        attempt=lease.attempt,
        lane_id=lane.spec.lane_id,
        value="unmeasured" if memory.unmeasured_reason else "measured",
        reason=memory.unmeasured_reason,
        memory=memory,
    )


def _event(task: Task, turn: Turn, event_type: str, *, value: str = "", reason: str = "") -> Event:
    return Event(
        event_type=event_type,
        created_at=turn.now.utc,
        task_id=task.task_id,
        attempt=task.attempt,
        lane_id=task.lane_id,
        model=task.model,
        value=value,
        reason=reason,
    )
