"""What callers see of the core's state: a task's place and time, and the operators' snapshot. Reads only."""

from __future__ import annotations

from admission.core.availability import availability
from admission.core.routing import predicted_wait_s, route
from admission.core.state import Assignment, Lane, State
from admission.core.tasks import Model, Task, TaskId, TaskState
from admission.engine_types import CountersView, DegradedView, LaneView, QueueView, Snapshot, TaskView, WorkView


def view_task(state: State, task: Task) -> TaskView:
    """The task with its queue position and predicted time to the end, as far as they are known."""
    if task.state is TaskState.LEASED:
        lane = None if task.lane_id is None else state.lanes.get(task.lane_id)
        assignment = None if lane is None else lane.assignment_of(task.task_id)
        place = None if lane is None or assignment is None else lane.place(task.model, assignment.lease)
        return TaskView(task=task, queue_position=None, eta_s=state.times.remaining_s(task, place))
    if task.state is not TaskState.QUEUED or task.task_id not in state.tasks:
        return TaskView(task=task, queue_position=None, eta_s=None)
    position, wait_s = _ahead(state, task.model, task.task_id)
    own_s = state.times.predicted_s(task)
    eta_s = None if wait_s is None or own_s is None else wait_s + own_s
    return TaskView(task=task, queue_position=position, eta_s=eta_s)


def _ahead(state: State, model: Model, task_id: TaskId) -> tuple[int | None, float | None]:
    """How many queued tasks are ahead of this one, and the seconds until a lane takes it: all work but its own and that behind it."""
    wait_s = predicted_wait_s(state, model)
    per_token_s = state.times.seconds_per_token(model)
    position, behind = None, 0
    for index, other in enumerate(state.queues[model]):
        if other == task_id:
            position = index
        if position is not None:
            behind += state.tasks[other].tokens
    if wait_s is None or per_token_s is None:
        return position, None
    return position, max(0.0, wait_s - behind * per_token_s / max(1, len(state.ready.get(model, {}))))


def view_lane(state: State, lane: Lane, now_s: float) -> LaneView:
    """The lane as operators see it."""
    status, reason = availability(state, lane, now_s)
    report = lane.report
    return LaneView(
        spec=lane.spec,
        availability=status,
        warm=report is not None and report.warm,
        resident_model=None if report is None else report.resident_model,
        work=_work_of(state, lane.rendering),
        finishing=_work_of(state, lane.finishing),
        reason=reason,
        last_report_age_s=None if lane.reported_at_s is None else now_s - lane.reported_at_s,
        cold_starts=0 if report is None else report.cold_starts,
        last_memory=lane.last_memory,
        is_drained=lane.is_drained,
        retired=lane.retired,
        load=report.load if report is not None and lane.attached else None,
        start_failure=None if report is None else report.start_failure,
        object_store_failure=report.object_store_failure if report is not None and lane.attached else "",
    )


def _work_of(state: State, assignment: Assignment | None) -> WorkView | None:
    task = None if assignment is None or assignment.is_withdrawn else state.tasks.get(assignment.lease.task_id)
    return None if task is None else WorkView(task_id=task.task_id, attempt=task.attempt, progress=task.progress)


def view_queue(state: State, model: Model, now_s: float) -> QueueView:
    """The model's queue as operators see it."""
    queue, policy, fallback = state.queues[model], state.policy(model), state.fallbacks.get(model)
    return QueueView(
        model=model,
        depth=len(queue),
        max_depth=state.limits.queue_depth,
        served=bool(state.ready.get(model)),
        running=state.backlogs[model].running,
        fallback_reason=route(state, model, now_s),
        fallback_since=None if fallback is None else fallback.since.utc,
        is_fallback_manual=policy.is_fallback_manual,
        quota_denied_until=policy.quota_denied_until,
        predicted_wait_s=predicted_wait_s(state, model),
    )


def view_all(state: State, epoch: int, now_s: float) -> Snapshot:
    """Everything at one instant."""
    oldest_s = next(iter(state.held.values()), now_s)
    counters = state.counters
    return Snapshot(
        controller_epoch=epoch,
        lanes=tuple(view_lane(state, state.lanes[lane_id], now_s) for lane_id in sorted(state.lanes)),
        queues=tuple(view_queue(state, model, now_s) for model in sorted(state.queues)),
        degraded=DegradedView(
            depth=state.degraded_depth,
            max_depth=state.limits.degraded_depth,
            held=len(state.held),
            rescued=len(state.rescued),
            oldest_wait_s=now_s - oldest_s,
            max_wait_s=state.limits.degraded_wait_s,
        ),
        counters=CountersView(
            accepted=counters.accepted,
            fallbacks=counters.fallbacks,
            overloaded_depth=counters.overloaded_depth,
            overloaded_wait=counters.overloaded_wait,
            lanes_lost=counters.lanes_lost,
        ),
    )
