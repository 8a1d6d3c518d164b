"""Accepted tasks that no ready lane of their model serves: some are offered to the degraded pool, ahead of held requests."""

from __future__ import annotations

from admission.core.deadlines import Due
from admission.core.fit import shape_key
from admission.core.matching import fits_ready_lane, fits_some, pool_of
from admission.core.routing import route
from admission.core.state import Turn
from admission.core.tasks import FallbackReason, Model, Task
from runtime.values import changed


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
    """Offers the tasks of a model that no ready lane could serve for long enough, as far as there are places in the pool, and it can.

    A task is accepted into a model's queue only while the model has a ready lane for it, so the model's time without one is the task's too;
    for a task that fits none of those that are ready, its own time is kept.
    """
    state, limits = turn.state, turn.state.limits
    state.rescue_watched.discard(model)
    since_s = state.unserved_since_s.get(model)
    if since_s is None and not state.unfit_since_s:
        return
    if since_s is not None and turn.now_s < since_s + limits.rescue_after_s:
        watch(turn, model, since_s + limits.rescue_after_s)
        return
    pool, next_s = pool_of(state, model), None
    for task_id in state.queues[model]:
        own_s = state.unfit_since_s.get(task_id) if since_s is None else since_s
        if task_id in state.rescued or own_s is None:
            continue
        if turn.now_s < own_s + limits.rescue_after_s:
            at_s = own_s + limits.rescue_after_s
        elif _has_place(turn) and (not pool or fits_some(pool, state.tasks[task_id])):
            _offer(turn, state.tasks[task_id])
            continue
        else:
            # No event says that a place is free: a look every second costs little and is late by a second at most.
            at_s = turn.now_s + 1.0
        next_s = at_s if next_s is None else min(next_s, at_s)
    if next_s is not None:
        watch(turn, model, next_s)


def note_fits(turn: Turn, model: Model) -> None:
    """Keeps since when each queued task fits no ready lane; to be called when the ready lanes of the model, or what fits them, changed."""
    for task_id in turn.state.queues[model]:
        note_fit(turn, turn.state.tasks[task_id])


def note_fit(turn: Turn, task: Task) -> None:
    """The same for one queued task. While no lane is ready at all the model's own time counts, and the task's goes on."""
    state = turn.state
    if not state.ready[task.model]:
        return
    if fits_ready_lane(state, task.model, shape_key(task)):
        state.unfit_since_s.pop(task.task_id, None)
    elif task.task_id not in state.unfit_since_s:
        state.unfit_since_s[task.task_id] = turn.now_s
        watch(turn, task.model, turn.now_s + state.limits.rescue_after_s)


def _has_place(turn: Turn) -> bool:
    state = turn.state
    return len(state.rescued) < state.limits.rescued_depth and state.degraded_depth < state.limits.degraded_depth


def _offer(turn: Turn, task: Task) -> None:
    state = turn.state
    state.rescued[task.task_id] = None
    reason = route(state, task.model, turn.now_s) or FallbackReason.CAPACITY
    state.put(changed(task, fallback_reason=reason))
