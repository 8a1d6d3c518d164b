"""Where a request goes: the dedicated queue of its model at once, or else the degraded way, with the reason. Steps 3 to 5 of the design.

Step 1 (Validate) stands at the doors, before the core sees the request. Step 2 (Fit) belongs here, before `route`: it will narrow
the lanes that `route` may consider to those on which the request's predicted peak memory fits.
"""

from __future__ import annotations

from dataclasses import replace

from admission.core.commands import OverloadCause, ReplyAccepted, ReplyOverloaded
from admission.core.deadlines import Due
from admission.core.state import State, Turn
from admission.core.tasks import Event, FallbackReason, Model, Task, TaskId, TaskState, moved


def route(state: State, model: Model) -> FallbackReason | None:
    """None: the model's own queue takes it. Otherwise the degraded way, and why."""
    if not state.ready.get(model):
        return FallbackReason.CAPACITY
    queue = state.queues[model]
    if len(queue) >= state.limits.queue_depth:
        return FallbackReason.CAPACITY
    wait_s = predicted_wait_s(state, model)
    if wait_s is not None and wait_s >= state.limits.queue_wait_s:
        return FallbackReason.CAPACITY
    return None


def predicted_wait_s(state: State, model: Model, before: TaskId | None = None) -> float | None:
    """Seconds until a lane of the model takes a new task (or the queued task `before`); None when nothing of the model was measured."""
    ahead_s = 0.0
    for task in state.running(model):
        remaining_s = state.times.remaining_s(task)
        if remaining_s is None:
            return None
        ahead_s += remaining_s
    for task_id in state.queues[model]:
        if task_id == before:
            break
        whole_s = state.times.predicted_s(state.tasks[task_id])
        if whole_s is None:
            return None
        ahead_s += whole_s
    return ahead_s / max(1, len(state.ready.get(model, {})))


def admit(turn: Turn, task: Task) -> None:
    """Routes a new request: accepted, held, or refused with `queue_overloaded`."""
    reason = route(turn.state, task.model)
    if reason is None:
        _enqueue(turn, task)
    elif turn.state.degraded_depth >= turn.state.limits.degraded_depth:
        turn.state.counters.overloaded_depth += 1
        _refuse(turn, task, OverloadCause.DEPTH, waited_s=0.0)
    else:
        turn.state.tasks[task.task_id] = replace(task, fallback_reason=reason)
        turn.state.held[task.task_id] = turn.now_s
        turn.state.deadlines.set(turn.now_s + turn.state.limits.degraded_wait_s, Due.HELD, task.task_id)


def expire_held(turn: Turn, task_id: TaskId) -> None:
    """A held request whose wait reached the limit is refused; at exactly the limit, expiry wins."""
    since_s = turn.state.held.get(task_id)
    if since_s is None or turn.now_s < since_s + turn.state.limits.degraded_wait_s:
        return
    task = turn.state.tasks[task_id]
    turn.state.counters.overloaded_wait += 1
    _refuse(turn, task, OverloadCause.WAIT, waited_s=turn.now_s - since_s)
    forget_held(turn, task_id)


def forget_held(turn: Turn, task_id: TaskId) -> None:
    """Frees the place of a held request."""
    turn.state.held.pop(task_id, None)
    turn.state.tasks.pop(task_id, None)


def _enqueue(turn: Turn, task: Task) -> None:
    state = turn.state
    queued = moved(task, TaskState.QUEUED, turn.now.utc, queued_at=turn.now.utc)
    turn.store(queued, accepts=True)
    turn.record(Event(event_type="accepted", created_at=turn.now.utc, task_id=task.task_id, value="dedicated"))
    state.queues[task.model].push(task.task_id, task.owner)
    state.counters.accepted += 1
    turn.watch_unserved(queued, turn.now_s + state.limits.not_served_s)
    turn.emit(ReplyAccepted(task=queued))


def _refuse(turn: Turn, task: Task, cause: OverloadCause, *, waited_s: float) -> None:
    state, limits = turn.state, turn.state.limits
    turn.emit(
        ReplyOverloaded(
            task_id=task.task_id,
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
