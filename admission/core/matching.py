"""Who gets what next: the pairs of a waiting task and an idle lane on which it fits."""

from __future__ import annotations

from collections.abc import Iterable

from admission.core.fit import Group, ShapeKey, shape_key
from admission.core.state import Lane, State
from admission.core.tasks import Model, Task, TaskId


def next_of_queue(state: State, model: Model) -> tuple[Lane, Task] | None:
    """The first task in fair order that fits an idle lane of the model, and the lane that is idle for longest of those; None: no pair."""
    idle = state.idle[model]
    head = state.queues[model].peek() if idle else None
    if head is None:
        return None
    lane, task = state.lanes[next(iter(idle))], state.tasks[head]
    return (lane, task) if lane.fit(model, shape_key(task)) is not None else _searched(state, model)


def next_of_pool(state: State, lane: Lane) -> Task | None:
    """What an idle lane of the pool takes: rescued tasks go before held requests."""
    models = lane.spec.models
    for task_id in (*state.rescued, *state.held):
        task = state.tasks[task_id]
        if task.model in models and lane.fit(task.model, shape_key(task)) is not None:
            return task
    return None


def fits_ready_lane(state: State, model: Model, key: ShapeKey | None) -> bool:
    """Whether some ready lane of the model's own can render this."""
    ready = state.ready[model]
    return bool(ready) if key is None else any(state.lanes[lane_id].fit(model, key) is not None for lane_id in ready)


def pool_of(state: State, model: Model) -> tuple[Lane, ...]:
    """Every known lane of the pool that has the model, ready or not."""
    return tuple(lane for lane in state.lanes.values() if lane.is_pool and model in lane.spec.models)


def fits_some(lanes: Iterable[Lane], task: Task) -> bool:
    """Whether one of the lanes can render it."""
    key = shape_key(task)
    return any(lane.fit(task.model, key) is not None for lane in lanes)


def _searched(state: State, model: Model) -> tuple[Lane, Task] | None:
    """Looks through the whole queue. Of lanes that are alike the one with the largest budget is tried, so that many cost as few."""
    idle = [state.lanes[lane_id] for lane_id in state.idle[model]]
    largest: dict[Group | None, Lane] = {}
    for lane in idle:
        group = lane.groups.get(model)
        if group not in largest or largest[group].budget_bytes < lane.budget_bytes:
            largest[group] = lane

    def fits(task_id: TaskId) -> bool:
        return fits_some(largest.values(), state.tasks[task_id])

    found = state.queues[model].first(fits)
    if found is None:
        return None
    task = state.tasks[found]
    key = shape_key(task)
    return next(lane for lane in idle if lane.fit(model, key) is not None), task
