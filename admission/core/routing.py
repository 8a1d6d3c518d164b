"""Where a request goes: the dedicated queue of its model at once, or else the degraded way, with the reason. Steps 3 to 5 of the design.

Step 1 (Validate) stands at the doors, before the core sees the request. Step 2 (Fit) is asked first (`refusals`), and `route` considers
only lanes on which the request's predicted peak memory fits.
"""

from __future__ import annotations

from admission.core.commands import OverloadCause, Refusal, ReplyAccepted, ReplyOverloaded, ReplyRefused
from admission.core.deadlines import Due
from admission.core.events import RequestTurnedAway
from admission.core.fit import ShapeKey, shape_key
from admission.core.matching import fits_ready_lane
from admission.core.refusals import refusal
from admission.core.state import Fallback, State, Turn
from admission.core.tasks import Event, FallbackReason, LaneMode, Model, Task, TaskId, TaskState, moved
from runtime.values import changed

# One key for the one look at all refusals.
_REFUSALS = "refusals"


def route(state: State, model: Model, now_s: float, key: ShapeKey | None = None) -> FallbackReason | None:
    """None: the model's own queue takes it. Otherwise the degraded way, and why. Without a shape: of a request that fits everywhere."""
    if state.policy(model).is_fallback_manual:
        return FallbackReason.MANUAL
    if not fits_ready_lane(state, model, key):
        return FallbackReason.QUOTA if state.is_quota_denied(model, now_s) else FallbackReason.CAPACITY
    if len(state.queues[model]) >= state.limits.queue_depth:
        return FallbackReason.CAPACITY
    wait_s = predicted_wait_s(state, model)
    if wait_s is not None and wait_s >= state.limits.queue_wait_s:
        return FallbackReason.CAPACITY
    return None


def predicted_wait_s(state: State, model: Model) -> float | None:
    """Seconds until a lane of the model takes a task that is queued now; None when nothing of the model was measured."""
    backlog = state.backlogs[model]
    if backlog.work == 0:
        return 0.0
    per_token_s = state.times.seconds_per_token(model)
    if per_token_s is None:
        return None
    return backlog.work / 100 * per_token_s / max(1, len(state.ready[model]))


def admit(turn: Turn, task: Task, waited_s: float) -> None:
    """Routes a new request: accepted, held, or refused. Requests of its model that are held already go first."""
    state, limits = turn.state, turn.state.limits
    key = shape_key(task)
    if (found := refusal(state, task.model, key)) is not None:
        _refuse_for_good(turn, task.task_id, task.model, found)
        return
    take_held(turn, task.model)
    reason = route(state, task.model, turn.now_s, key)
    if reason is None:
        _enqueue(turn, task)
        return
    _note_fallback(turn, task.model)
    if waited_s >= limits.degraded_wait_s:
        _refuse(turn, task.task_id, task.model, OverloadCause.WAIT, waited_s=waited_s)
    elif state.degraded_depth >= limits.degraded_depth:
        _refuse(turn, task.task_id, task.model, OverloadCause.DEPTH, waited_s=waited_s)
    else:
        _hold(turn, changed(task, fallback_reason=reason), turn.now_s - waited_s)


def is_closed(state: State, model: Model, key: ShapeKey | None, now_s: float) -> bool:
    """A request of this shape fits nowhere, or could neither enter its model's queue nor be held."""
    if refusal(state, model, key) is not None:
        return True
    return state.degraded_depth >= state.limits.degraded_depth and route(state, model, now_s, key) is not None


def would_hold(state: State, model: Model, key: ShapeKey | None, now_s: float) -> bool:
    """A request of this shape may have to wait for a place: it is not refused, nor for a queue into which no held one goes before it."""
    if refusal(state, model, key) is not None:
        return False
    if route(state, model, now_s, key) is None:
        return bool(state.held_by_model[model])
    return state.degraded_depth < state.limits.degraded_depth


def turn_away(turn: Turn, event: RequestTurnedAway) -> None:
    """Refuses a request to which everything is closed, as `admit` would."""
    if (found := refusal(turn.state, event.model, event.shape)) is not None:
        _refuse_for_good(turn, event.task_id, event.model, found)
        return
    _note_fallback(turn, event.model)
    is_over = event.waited_s >= turn.state.limits.degraded_wait_s
    _refuse(turn, event.task_id, event.model, OverloadCause.WAIT if is_over else OverloadCause.DEPTH, waited_s=event.waited_s)


def take_held(turn: Turn, model: Model) -> None:
    """While the model's queue is open, its held requests that fit a ready lane are accepted into it, oldest first."""
    state = turn.state
    held = state.held_by_model[model]
    if not held or route(state, model, turn.now_s) is not None:
        return
    for task_id in list(held):
        task = state.tasks[task_id]
        if route(state, model, turn.now_s, shape_key(task)) is None:
            forget_held(turn, task_id)
            _enqueue(turn, changed(task, fallback_reason=None))


def expire_held(turn: Turn, task_id: TaskId) -> None:
    """A held request whose wait reached the limit is refused; at exactly the limit, expiry wins."""
    since_s = turn.state.held.get(task_id)
    if since_s is None or turn.now_s < since_s + turn.state.limits.degraded_wait_s:
        return
    task = turn.state.tasks[task_id]
    _refuse(turn, task_id, task.model, OverloadCause.WAIT, waited_s=turn.now_s - since_s)
    forget_held(turn, task_id)


def forget_held(turn: Turn, task_id: TaskId) -> None:
    """Frees the place of a held request."""
    leave_held(turn.state, task_id)
    turn.state.drop(task_id)


def leave_held(state: State, task_id: TaskId) -> None:
    """The request waits no more; its task stays."""
    state.held.pop(task_id, None)
    task = state.tasks.get(task_id)
    if task is not None:
        state.held_by_model[task.model].pop(task_id, None)


def end_fallbacks(turn: Turn) -> None:
    """A model to whose own queue requests go again is not in fallback any more; how long it was is recorded."""
    state = turn.state
    # Without a ready lane they go on.
    for model in [model for model in state.fallbacks if state.ready[model] and route(state, model, turn.now_s) is None]:
        _end_fallback(turn, model)


def tell_refusals(turn: Turn) -> None:
    """Records the refusals since the last time, one event for each model and cause."""
    refusals, turn.state.refusals = turn.state.refusals, {}
    for (model, cause), count in sorted(refusals.items()):
        event_type = "queue_overloaded" if cause is OverloadCause.DEPTH else "queue_timeout"
        turn.record(Event(event_type=event_type, created_at=turn.now.utc, model=model, value=str(count), reason=cause))


def _note_fallback(turn: Turn, model: Model) -> None:
    """A request went the degraded way. If it only fits no lane that is ready, its model is not in fallback."""
    reason = route(turn.state, model, turn.now_s)
    known = turn.state.fallbacks.get(model)
    if reason is None or (known is not None and known.reason is reason):
        return
    if known is not None:
        _end_fallback(turn, model)
    turn.state.fallbacks[model] = Fallback(reason=reason, since=turn.now)
    turn.record(Event(event_type="model_fallback_started", created_at=turn.now.utc, model=model, value=model, reason=reason))


def _end_fallback(turn: Turn, model: Model) -> None:
    ended = turn.state.fallbacks.pop(model)
    lasted_s = turn.now_s - ended.since.monotonic_s
    turn.record(
        Event(event_type="model_fallback_ended", created_at=turn.now.utc, model=model, value=f"{lasted_s:.3f}", reason=ended.reason)
    )


def _hold(turn: Turn, task: Task, since_s: float) -> None:
    state = turn.state
    state.put(task)
    of_model = state.held_by_model[task.model]
    newest_s = next(reversed(state.held.values()), since_s)
    state.held[task.task_id] = since_s
    of_model[task.task_id] = None
    if since_s < newest_s:
        # It waited under an admission that went away: its place is by its whole wait. At most 25 are sorted.
        state.held = dict(sorted(state.held.items(), key=lambda item: item[1]))
        state.held_by_model[task.model] = {held: None for held in state.held if held in of_model}
    state.deadlines.set(since_s + state.limits.degraded_wait_s, Due.HELD, task.task_id)


def _enqueue(turn: Turn, task: Task) -> None:
    state = turn.state
    queued = moved(task, TaskState.QUEUED, turn.now.utc, queued_at=turn.now.utc)
    turn.store(queued, accepts=True)
    accepted = Event(event_type="accepted", created_at=turn.now.utc, task_id=task.task_id, model=task.model, value=LaneMode.DEDICATED)
    turn.record(accepted)
    state.queues[task.model].push(task.task_id, task.owner)
    state.counters.accepted += 1
    turn.watch_unserved(queued, turn.now_s + state.limits.not_served_s)
    turn.emit(ReplyAccepted(task=queued))


def _refuse_for_good(turn: Turn, task_id: TaskId, model: Model, found: Refusal) -> None:
    turn.emit(ReplyRefused(task_id=task_id, model=model, refusal=found))


def _refuse(turn: Turn, task_id: TaskId, model: Model, cause: OverloadCause, *, waited_s: float) -> None:
    state, limits = turn.state, turn.state.limits
    if cause is OverloadCause.DEPTH:
        state.counters.overloaded_depth += 1
    else:
        state.counters.overloaded_wait += 1
    if not state.refusals:
        state.deadlines.set(turn.now_s + limits.refusals_told_s, Due.REFUSALS, _REFUSALS)
    state.refusals[model, cause] = state.refusals.get((model, cause), 0) + 1
    turn.emit(
        ReplyOverloaded(
            task_id=task_id,
            model=model,
            cause=cause,
            depth=state.degraded_depth,
            max_depth=limits.degraded_depth,
            waited_s=waited_s,
            max_wait_s=limits.degraded_wait_s,
            retry_after_s=_retry_after_s(turn),
        )
    )


def _retry_after_s(turn: Turn) -> float:
    """When the oldest held request will have left its place at the latest; at least a second."""
    oldest_s = next(iter(turn.state.held.values()), None)
    if oldest_s is None:
        return 1.0
    return max(1.0, oldest_s + turn.state.limits.degraded_wait_s - turn.now_s)
