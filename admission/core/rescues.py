"""Accepted tasks that no ready lane of their model serves: some are offered to the degraded pool, ahead of held requests."""

from __future__ import annotations

from admission.core.deadlines import Due
from admission.core.routing import route
from admission.core.state import Turn
from admission.core.tasks import FallbackReason, Model, Task, changed


def offer_first(turn: Turn, task: Task) -> None:
    """A task that lost its lane in the pool goes on there, before the others, if a place is free; else it waits for its turn."""
    state = turn.state
    if _has_place(turn):
        _offer(turn, task)
        state.rescued = {task.task_id: None, **state.rescued}
    else:
        watch(turn, task.model, turn.now_s + state.limits.rescue_after_s)


def watch(turn: Turn, model: Model, at_s: float) -> None:
    """Sets the look at a model whose tasks may have to be rescued; there is never more than one."""
    if model not in turn.state.rescue_watched:
        turn.state.rescue_watched.add(model)
        turn.state.deadlines.set(at_s, Due.RESCUE, model)


def offer_due(turn: Turn, model: Model) -> None:
    """Offers the tasks of a model that has had no ready lane for long enough, as far as there are places.

    A task is accepted into a model's queue only while the model has a ready lane, so the model's time without one is the task's too.
    """
    state, limits = turn.state, turn.state.limits
    state.rescue_watched.discard(model)
    since_s = state.unserved_since_s.get(model)
    if since_s is None:
        return
    if turn.now_s < since_s + limits.rescue_after_s:
        watch(turn, model, since_s + limits.rescue_after_s)
        return
    waiting = False
    for task_id in state.queues[model]:
        task = state.tasks[task_id]
        if task_id in state.rescued:
            continue
        if _has_place(turn):
            _offer(turn, task)
        else:
            waiting = True
    if waiting:
        # No event says that a place is free: a look every second costs little and is late by a second at most.
        watch(turn, model, turn.now_s + 1.0)


def _has_place(turn: Turn) -> bool:
    state = turn.state
    return len(state.rescued) < state.limits.rescued_depth and state.degraded_depth < state.limits.degraded_depth


def _offer(turn: Turn, task: Task) -> None:
    state = turn.state
    state.rescued[task.task_id] = None
    reason = route(state, task.model, turn.now_s) or FallbackReason.CAPACITY
    state.put(changed(task, fallback_reason=reason))
