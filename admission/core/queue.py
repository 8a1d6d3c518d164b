"""The core's one door: `QueueState.handle(event, now) -> list[Command]`. Same events in, same decisions out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from admission.core import contact, imports, itself, learning, leases, matching, operators, rescues, routing
from admission.core.availability import refresh
from admission.core.commands import Command, DiscardAttempt
from admission.core.deadlines import Due, Entry
from admission.core.events import (
    AcceptancesNotStored,
    AdmissionStarted,
    CallerLeft,
    CancelRequested,
    CapacityReported,
    CoreEvent,
    FallbackSet,
    LaneDetached,
    LaneDrainSet,
    LaneReported,
    RequestTurnedAway,
    StoreSlowed,
    TaskDeleted,
    TaskImported,
    TaskSubmitted,
    TimePassed,
)
from admission.core.fair_queue import FairQueue
from admission.core.fit import FitRules, Fits, ShapeKey
from admission.core.lanes import KnownLane, Lease, ModelPolicy
from admission.core.learned import Learned
from admission.core.limits import Limits
from admission.core.state import Assignment, Backlog, Lane, State, Turn
from admission.core.tasks import Failure, FailureCode, LaneId, Model, Stage, Task, TaskId, TaskState, moved
from admission.core.time import Now
from runtime.values import changed

_CANCELLED = Failure(code=FailureCode.CANCELLED, message="The task was cancelled.")
_OVERDUE = Failure(code=FailureCode.DEADLINE_EXCEEDED, message="The render took longer than it may. Try fewer frames or a smaller size.")


class QueueState:
    """Tasks, lanes and who works on what. `state` may be read between events; only `handle` changes it."""

    def __init__(self, limits: Limits, models: Iterable[Model], now: Now, fit_rules: FitRules | None = None) -> None:
        """Empty, at the start of admission. Without rules of Fit nothing is refused before a lane was seen."""
        self.state = State(limits=limits, started_at_s=now.monotonic_s, fits=Fits(fit_rules or FitRules()))
        for model in models:
            self.state.queues[model] = FairQueue()
            self.state.backlogs[model] = Backlog()
            self.state.policies[model] = ModelPolicy(model=model)
            self.state.held_by_model[model] = {}
        for key in (*self.state.queues, None):
            self.state.ready[key], self.state.idle[key] = {}, {}
        for model in self.state.queues:
            self.state.unserved_since_s[model] = now.monotonic_s
            rescues.watch(Turn(state=self.state, now=now), model, now.monotonic_s + limits.rescue_after_s)

    def restore(
        self,
        tasks: Iterable[Task],
        lanes: Iterable[KnownLane],
        now: Now,
        policies: Iterable[ModelPolicy] = (),
        learned: Iterable[Learned] = (),
    ) -> list[Command]:
        """Takes over what the store holds, before the first event. Leases go on for their full length from now: live lanes keep theirs."""
        turn = Turn(state=self.state, now=now)
        for policy in policies:
            operators.restore(turn, policy)
        learning.restore(turn, tuple(learned))
        for known in lanes:
            contact.restore(turn, known)
        for task in tasks:
            if task.is_withdrawn:
                self._restore_withdrawn(turn, task)
                continue
            self.state.put(task)
            if task.state is TaskState.LEASED:
                self._restore_lease(turn, task)
            else:
                self._restore_queued(turn, task)
        for lane in self.state.lanes.values():
            refresh(turn, lane)
        return turn.commands

    def handle(self, event: CoreEvent, now: Now) -> list[Command]:
        """What is due first, then the event, then whatever can be given to an idle lane."""
        turn = Turn(state=self.state, now=now)
        due_s = self.state.deadlines.next_at()
        if due_s is not None and due_s <= turn.now_s:
            for entry in self.state.deadlines.pop_due(turn.now_s):
                self._look(turn, entry)
        self._take(turn, event)
        self._dispatch(turn)
        if turn.unwished is not None:
            leases.send_new_wish(turn, turn.unwished)
        if self.state.fallbacks:
            routing.end_fallbacks(turn)
        return turn.commands

    def is_closed(self, model: Model, shape: ShapeKey, now: Now) -> bool:
        """A request of this shape that comes now would be refused: no lane could ever serve it, or the degraded queue is full. Never while
        something is due: it may free a place."""
        due_s = self.state.deadlines.next_at()
        return (due_s is None or now.monotonic_s < due_s) and routing.is_closed(self.state, model, shape, now.monotonic_s)

    def would_hold(self, model: Model, shape: ShapeKey, now: Now) -> bool:
        """Whether a request of this shape that comes now would be held. Also while something is due that may change the answer."""
        due_s = self.state.deadlines.next_at()
        return (due_s is not None and now.monotonic_s >= due_s) or routing.would_hold(self.state, model, shape, now.monotonic_s)

    def next_due_s(self) -> float | None:
        """Monotonic time by which TimePassed must be handled; None: nothing waits for time."""
        return self.state.deadlines.next_at()

    def _take(self, turn: Turn, event: CoreEvent) -> None:
        match event:
            # The most frequent first: each case that is passed over costs.
            case LaneReported(report=report):
                contact.hear(turn, report)
            case TaskSubmitted(task=task, waited_s=waited_s):
                routing.admit(turn, task, waited_s)
            case RequestTurnedAway():
                routing.turn_away(turn, event)
            case CallerLeft(task_id=task_id, may_return=may_return):
                self._caller_left(turn, task_id, may_return=may_return)
            case CancelRequested(task_id=task_id):
                self._cancel(turn, task_id)
            case LaneDetached(lane_id=lane_id, session=session):
                contact.detach(turn, lane_id, session)
            case AcceptancesNotStored(task_ids=task_ids):
                self._forget(turn, task_ids)
            case TaskDeleted(task_id=task_id):
                turn.state.withdrawn.pop(task_id, None)
            case TaskImported(task=task):
                imports.take_over(turn, task)
            case LaneDrainSet() | FallbackSet() | CapacityReported():
                operators.hear(turn, event)
            case AdmissionStarted() | StoreSlowed() | TimePassed():
                itself.hear(turn, event)
            case _:
                assert_never(event)

    def _look(self, turn: Turn, entry: Entry) -> None:
        """Something may be due; each look decides by the state, so a look too many does nothing."""
        state = turn.state
        lane = state.lanes.get(LaneId(entry.key))
        match entry.due:
            case Due.HELD:
                routing.expire_held(turn, TaskId(entry.key))
            case Due.NOT_SERVED:
                self._expire_unserved(turn, TaskId(entry.key))
            case Due.RESCUE:
                rescues.offer_due(turn, Model(entry.key))
            case Due.LEASE if lane is not None:
                contact.look_at_lease(turn, lane)
            case Due.CONTACT if lane is not None:
                contact.look_at_contact(turn, lane)
            case Due.ABSENCE if lane is not None:
                contact.look_at_absence(turn, lane)
            case Due.HEALTH if lane is not None:
                refresh(turn, lane)
            case Due.RENDER if lane is not None:
                self._expire_render(turn, lane)
            case Due.QUOTA:
                operators.expire_quota(turn, Model(entry.key))
            case Due.REFUSALS:
                routing.tell_refusals(turn)
            case _:
                pass

    def _dispatch(self, turn: Turn) -> None:
        """Gives idle lanes their next task: of the model's queue, which its held requests enter; the pool's rescued, then held ones."""
        state = turn.state
        for model in state.queues:
            # Without a ready lane every request goes the degraded way.
            if state.held_by_model[model] and state.ready[model]:
                routing.take_held(turn, model)
            # Nearly always there is none.
            while state.idle[model] and (pair := matching.next_of_queue(state, model)) is not None:
                leases.assign(turn, *pair)
                routing.take_held(turn, model)
        if not (state.held or state.rescued):
            return
        for lane_id in list(state.idle.get(None, ())):
            lane = state.lanes[lane_id]
            task = matching.next_of_pool(state, lane)
            if task is not None:
                leases.assign(turn, lane, task)
                # A rescued task leaves a place in its model's queue.
                routing.take_held(turn, task.model)

    def _caller_left(self, turn: Turn, task_id: TaskId, *, may_return: bool) -> None:
        task = turn.state.tasks.get(task_id)
        if task is None:
            return
        if task.state is TaskState.HELD:
            routing.forget_held(turn, task_id)
        elif task.attempt == 0 and not may_return:
            self._cancel(turn, task_id)

    def _cancel(self, turn: Turn, task_id: TaskId) -> None:
        """Terminal at once; a lane that works on it is told to stop and stays busy until it has."""
        task = turn.state.tasks.get(task_id)
        if task is None or task.state is TaskState.HELD:
            return
        self._end_early(turn, task, _CANCELLED)

    def _expire_unserved(self, turn: Turn, task_id: TaskId) -> None:
        task = turn.state.tasks.get(task_id)
        at_s = turn.state.not_served_at_s.get(task_id)
        if task is not None and at_s is not None and turn.now_s >= at_s:
            self._end_early(turn, task, leases.NOT_SERVED)

    def _expire_render(self, turn: Turn, lane: Lane) -> None:
        """The lane ends an overdue render itself; this is for a lane that reports but does not."""
        if lane.render_look_s is None or turn.now_s < lane.render_look_s:
            return
        lane.render_look_s = None
        for assignment in lane.assignments:
            if not assignment.is_withdrawn and turn.now_s >= leases.overdue_s(lane, assignment):
                self._end_early(turn, turn.state.tasks[assignment.lease.task_id], _OVERDUE)
        leases.watch_render(turn, lane)

    def _end_early(self, turn: Turn, task: Task, failure: Failure) -> None:
        state = turn.state
        lane = None if task.lane_id is None else state.lanes.get(task.lane_id)
        if task.state is TaskState.QUEUED:
            state.queues[task.model].remove(task.task_id, task.owner)
            state.leave_queue(task.task_id)
        assignment = None if lane is None or task.state is not TaskState.LEASED else lane.assignment_of(task.task_id)
        leases.fail(turn, task, failure, is_withdrawn=assignment is not None)
        if lane is not None and assignment is not None:
            leases.withdraw(turn, lane, assignment)

    def _forget(self, turn: Turn, task_ids: Iterable[TaskId]) -> None:
        for task_id in sorted(task_ids):
            self._forget_one(turn, task_id)

    def _forget_one(self, turn: Turn, task_id: TaskId) -> None:
        """Its acceptance could not be stored: it never was. A lane that was about to get it gets nothing."""
        task = turn.state.drop(task_id)
        if task is None:
            return
        turn.state.counters.accepted -= 1
        turn.state.leave_queue(task_id)
        if task.state is TaskState.QUEUED:
            turn.state.queues[task.model].remove(task_id, task.owner)
        elif task.lane_id is not None:
            lane = turn.state.lanes[task.lane_id]
            assignment = lane.assignment_of(task_id)
            if assignment is not None:
                lane.drop(assignment)
            leases.send_new_wish(turn, lane)
            refresh(turn, lane)

    def _restore_queued(self, turn: Turn, task: Task) -> None:
        state, limits = self.state, self.state.limits
        queue = state.queues[task.model]
        if task.attempt > 0:
            queue.push_head(task.task_id)
        else:
            queue.push(task.task_id, task.owner)
        queued_at_s = turn.now.since_of(task.queued_at or task.created_at)
        turn.watch_unserved(task, queued_at_s + limits.not_served_s)

    def _restore_lease(self, turn: Turn, task: Task) -> None:
        state = self.state
        lane = None if task.lane_id is None else state.lanes.get(task.lane_id)
        if lane is None or not _has_place(lane, task):
            # Cannot come of a sound store; a task is worth more than an assertion, so it runs again.
            turn.emit(DiscardAttempt(task_id=task.task_id, attempt=task.attempt))
            queued = moved(task, TaskState.QUEUED, turn.now.utc, queued_at=turn.now.utc, lane_mode=None, progress=0, stage=Stage.QUEUED)
            turn.store(queued)
            self._restore_queued(turn, queued)
            return
        # The lane's first word about a lease moves the task on from DISPATCH.
        is_confirmed, is_encoding = task.stage is not Stage.DISPATCH, task.stage is Stage.ENCODING
        assignment = Assignment(lease=leases.lease_on(lane, task), is_confirmed=is_confirmed, is_gpu_free=is_encoding)
        self._restore_assignment(turn, lane, assignment, task)
        leases.set_render_deadline(turn, lane, assignment, task)

    def _restore_withdrawn(self, turn: Turn, task: Task) -> None:
        """It ended early before the restart; its lane may still work on it, and owes the memory record."""
        lane = None if task.lane_id is None else self.state.lanes.get(task.lane_id)
        if lane is None or not _has_place(lane, task):
            turn.store(changed(task, is_withdrawn=False))
            return
        self.state.withdrawn[task.task_id] = task
        lease = Lease(task_id=task.task_id, attempt=task.attempt)
        self._restore_assignment(turn, lane, Assignment(lease=lease, is_confirmed=True, is_withdrawn=True), task)

    def _restore_assignment(self, turn: Turn, lane: Lane, assignment: Assignment, task: Task) -> None:
        """Of two, the one that the lane never named is not the one that is finished, nor is the younger; the first report decides."""
        assignment.given_s = turn.now.since_of(task.leased_at or turn.now.utc)
        lane.boot_id = task.boot_id or ""
        lane.finishing, lane.rendering = lane.rendering, assignment
        other = lane.finishing
        if other is not None and (not other.is_confirmed, other.given_s) > (not assignment.is_confirmed, assignment.given_s):
            lane.exchange()
        lane.lease_expires_at_s = turn.now_s + self.state.limits.lease_s
        leases.watch(turn, lane)


def _has_place(lane: Lane, task: Task) -> bool:
    """Whether the store's word that the lane has this attempt can be true: it has at most two, of one boot."""
    if lane.finishing is not None or task.boot_id is None:
        return False
    return lane.rendering is None or lane.boot_id == task.boot_id
