"""A lease from its giving to its end: assigned, settled, lost or withdrawn. The attempt number fences every late word about it."""

from __future__ import annotations

from admission.core import learning, rescues
from admission.core.availability import refresh
from admission.core.commands import DiscardAttempt, ReplyAccepted, SendWish
from admission.core.deadlines import Due
from admission.core.fit import ANYHOW, shape_key
from admission.core.lanes import Lease, Outcome, Wish
from admission.core.routing import leave_held
from admission.core.state import Lane, Turn
from admission.core.tasks import Event, Failure, FailureCode, LaneMode, MemoryRecord, Stage, Task, TaskState, changed, moved

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
    lane.lease = lease_on(lane, leased)
    lane.is_confirmed = False
    lane.lease_expires_at_s = turn.now_s + state.limits.lease_s
    watch(turn, lane)
    set_render_deadline(turn, lane, leased, turn.now_s)
    send_new_wish(turn, lane)
    refresh(turn, lane)


def lease_on(lane: Lane, task: Task) -> Lease:
    """The lease of the task's present attempt there, with what is predicted of it."""
    fit = lane.fit(task.model, shape_key(task)) or ANYHOW
    return Lease(task_id=task.task_id, attempt=task.attempt, placement=fit.placement, predicted_peak_bytes=fit.peak_bytes)


def settle(turn: Turn, lane: Lane, task: Task, outcome: Outcome) -> None:
    """The lane says how its lease ended: one commit, once. The acknowledgement follows it to disk. The caller refreshes the lane."""
    lane.acknowledged, lane.lease = lane.lease, None
    _remember_memory(turn, lane, task, outcome.memory)
    learning.learn(turn, lane, task, outcome)
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
    send_new_wish(turn, lane)


def lose(turn: Turn, lane: Lane, reason: str, *, counts: bool = True) -> None:
    """The lane that holds this lease is gone: the task runs again, or fails at the third loss that counts.

    A lease that the lane never took up (it said nothing of it) was no execution: it does not count, and the task waits on as before.
    """
    lease, was_started = lane.lease, lane.is_confirmed
    task = None if lease is None else turn.state.tasks.get(lease.task_id)
    end_withdrawn(turn, lane, None, reason)
    lane.lease = None
    refresh(turn, lane)
    if lease is None or task is None:
        return
    turn.record(_unmeasured(turn, lane, lease, reason))
    _run_again(turn, lane, task, reason=reason, counts=counts and was_started, was_started=was_started)
    send_new_wish(turn, lane)
    refresh(turn, lane)


def withdraw(turn: Turn, lane: Lane) -> None:
    """Takes the lease back (cancelled or overdue). The lane stays busy until it says that the GPU is free."""
    lane.withdrawn, lane.lease = lane.lease, None
    send_new_wish(turn, lane)
    refresh(turn, lane)


def end_withdrawn(turn: Turn, lane: Lane, outcome: Outcome | None, reason: str = "the lane had not started it or forgot it") -> None:
    """What was withdrawn has ended on the lane, with an outcome that nobody wants or without a word (for this reason)."""
    lease = lane.withdrawn
    if lease is None:
        return
    lane.withdrawn = None
    task = turn.state.withdrawn.get(lease.task_id)
    if task is not None:
        turn.store(changed(task, is_withdrawn=False))
    if outcome is None:
        turn.record(_unmeasured(turn, lane, lease, reason))
    else:
        lane.acknowledged = lease
        lane.last_memory = outcome.memory
        turn.record(_memory_event(turn, lane, lease, outcome.memory))
        if task is not None:
            learning.learn(turn, lane, task, outcome)
    turn.emit(DiscardAttempt(task_id=lease.task_id, attempt=lease.attempt))


def refuse(turn: Turn, lane: Lane, stale: Lease, outcome: Outcome) -> None:
    """An outcome of an attempt that is not the lane's any more (fencing): nothing is committed, its files are removed."""
    if lane.acknowledged == stale:
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
    lane.acknowledged = stale


def fail(turn: Turn, task: Task, failure: Failure, *, is_withdrawn: bool = False) -> None:
    """The task ends without a result; `is_withdrawn`: while a lane may still work on it."""
    state = TaskState.CANCELLED if failure.code is FailureCode.CANCELLED else TaskState.FAILED
    turn.record(_event(task, turn, "ended", value=state, reason=failure.code))
    turn.store(moved(task, state, turn.now.utc, stage=Stage.FAILED, stage_detail="", failure=failure, is_withdrawn=is_withdrawn))


def send_new_wish(turn: Turn, lane: Lane) -> None:
    """Tells the lane what is wanted of it now."""
    lease = lane.lease
    lane.wish = Wish(
        sequence=lane.wish.sequence + 1,
        lease=lease,
        acknowledged=lane.acknowledged,
        render_deadline_s=0.0 if lease is None else lane.render_deadline_s,
        drain=lane.is_drained,
    )
    lane.settled_sequence = lane.wish.sequence
    send_wish(turn, lane)


def send_wish(turn: Turn, lane: Lane) -> None:
    """Sends the present wish (again); without a stream the first report of the next one asks for it."""
    if lane.attached:
        turn.emit(SendWish(lane_id=lane.spec.lane_id, session=lane.session, wish=lane.wish))


def set_render_deadline(turn: Turn, lane: Lane, task: Task, from_s: float) -> None:
    """Fixes how long the render of the lane's lease may take, from this monotonic time on."""
    limits = turn.state.limits
    expected_s = turn.state.times.generous_s(task, lane.place(task.model), lane.gpu) or 0.0
    lane.render_deadline_s = min(limits.render_deadline_max_s, max(limits.render_deadline_s, limits.render_deadline_factor * expected_s))
    lane.render_until_s = from_s + lane.render_deadline_s + limits.render_grace_s
    watch_render(turn, lane)


def watch_render(turn: Turn, lane: Lane) -> None:
    """Sets the look at the render's deadline, once."""
    if not lane.render_watched:
        lane.render_watched = True
        turn.state.deadlines.set(lane.render_until_s, Due.RENDER, lane.spec.lane_id)


def watch(turn: Turn, lane: Lane) -> None:
    """Sets the look at the lease's expiry, once."""
    if not lane.lease_watched:
        lane.lease_watched = True
        turn.state.deadlines.set(lane.lease_expires_at_s, Due.LEASE, lane.spec.lane_id)


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


def _remember_memory(turn: Turn, lane: Lane, task: Task, memory: MemoryRecord) -> None:
    lane.last_memory = memory
    turn.record(_memory_event(turn, lane, Lease(task_id=task.task_id, attempt=task.attempt), memory))


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
