"""What must hold after every step: each decision of the core, each write, each reply, each removed file, and the end of the history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from admission.core.commands import Command, PersistTask, Record, RefusalCode, ReplyAccepted, ReplyOverloaded, ReplyRefused
from admission.core.events import (
    CallerLeft,
    CoreEvent,
    LaneDetached,
    LaneReported,
    RequestTurnedAway,
    TaskSubmitted,
    TimePassed,
)
from admission.core.tasks import TERMINAL, Event, LaneId, LaneMode, Model, Stage, Task, TaskId, TaskState
from runtime.objects import attempt_prefix
from tests.simulation.fitting import asked, fits, is_possible

if TYPE_CHECKING:
    from admission.core.lanes import Wish
    from admission.core.state import State
    from admission.core.time import Now
    from admission.store.port import Batch
    from tests.simulation.disk import Disk
    from tests.simulation.objects import ModelObjects

MAX_DEPTH, MAX_WAIT_S, MAX_RESCUED = 25, 30.0, 5
MAX_LOST_LANES = 3
MAX_TURNS = 2
LEASE_S = 30.0

# The structure of the whole core is looked at after every so many of its events; what one event can break is looked at always.
_WHOLE_EVERY = 16
_PLACES = {TaskState.HELD: "held", TaskState.QUEUED: "queued", TaskState.LEASED: "leased"}


class Checker:
    """The invariants that concern what is stored, told and removed. The first violation ends the history."""

    def __init__(self, disk: Disk, objects: ModelObjects, name: Callable[[str], str]) -> None:
        self.violations: list[str] = []
        self.may_delete: set[TaskId] = set()
        self.deleted: set[TaskId] = set()
        self.refused: set[TaskId] = set()
        self.named = name
        self._disk = disk
        self._objects = objects
        self._started: set[tuple[TaskId, int]] = set()
        self._recorded: set[tuple[TaskId, int]] = set()
        self._of_key: dict[tuple[str, str], TaskId] = {}
        disk.on_write = self._write
        objects.on_removed = self._removed

    def expect(self, holds: bool, text: str) -> None:
        """Keeps a violation unless it holds."""
        if not holds:
            self.violations.append(text)

    def accepted(self, task: Task) -> None:
        """A caller is being told now that its task is accepted."""
        there = task.task_id in self._disk.tasks or task.task_id in self.deleted
        self.expect(there, f"{self.named(task.task_id)} is accepted in a reply and not on disk")
        if task.request_id:
            first = self._of_key.setdefault((task.owner, task.request_id), task.task_id)
            if first != task.task_id:
                self.expect(first in self.deleted, f"{self.named(first)} and {self.named(task.task_id)} have the same idempotency key")
                self._of_key[(task.owner, task.request_id)] = task.task_id

    def cancelled(self, task_id: TaskId) -> None:
        """A caller is being told now that its cancel is durable."""
        task = self._disk.tasks.get(task_id)
        self.expect(task is None or task.state in TERMINAL, f"{self.named(task_id)} was cancelled in a reply and goes on on disk")

    def removed(self, task_id: TaskId) -> None:
        """A caller is being told now that its task is deleted."""
        self.expect(task_id not in self._disk.tasks, f"{self.named(task_id)} was deleted in a reply and is on disk")

    def wished(self, epoch: int, wish: Wish) -> None:
        """A lane is being told what is wanted of it: all of that is on disk."""
        for lease in (wish.lease, wish.finishing):
            if lease is None:
                continue
            task = self._disk.tasks.get(lease.task_id)
            is_there = lease.task_id in self.deleted or (task is not None and task.attempt >= lease.attempt)
            self.expect(
                is_there, f"epoch {epoch} sends {self.named(lease.task_id)} attempt {lease.attempt}, and no lease for it is on disk"
            )
        for ended in (wish.acknowledged_before, wish.acknowledged):
            if ended is None:
                continue
            task = self._disk.tasks.get(ended.task_id)
            goes_on = task is not None and task.attempt == ended.attempt and task.state is TaskState.LEASED
            text = f"epoch {epoch} acknowledges {self.named(ended.task_id)} attempt {ended.attempt}, and on disk it goes on"
            self.expect(not goes_on or epoch != self._disk.epoch, text)

    def at_the_end(self) -> None:
        """The faults stopped and time ran: nothing is open any more."""
        for task in self._disk.tasks.values():
            told = f"{self.named(task.task_id)} ({task.state}, attempt {task.attempt} on {task.lane_id})"
            self.expect(task.state in TERMINAL, f"{told} never ended")
            self.expect(not task.is_withdrawn, f"{told} ended, and its lane never said that the GPU is free")
            if task.state is TaskState.DONE and task.result is not None:
                self.expect(task.result.video_key in self._objects.files, f"{told} is done and its file is gone")
            for attempt in range(1, task.attempt + 1):
                if (task.task_id, attempt) in self._started:
                    self.expect((task.task_id, attempt) in self._recorded, f"{told}: attempt {attempt} has no memory record")

    def _write(self, epoch: int, batch: Batch) -> None:
        self.expect(epoch == self._disk.epoch, f"the admission of epoch {epoch} wrote, and {self._disk.epoch} rules")
        gone = set(batch.deleted)
        for task in batch.tasks:
            self._stored(task)
        for event in batch.events:
            self._event(event, batch)
        for task_id in gone:
            self.expect(task_id in self.may_delete, f"{self.named(task_id)} is being deleted, and nobody asked for it")
            there = self._disk.tasks.get(task_id)
            self.expect(there is None or there.state in TERMINAL, f"{self.named(task_id)} is being deleted while it goes on")
        self.deleted |= gone
        self._leases_of_lanes((self._disk.unfinished | {one.task_id: one for one in batch.tasks}).values())

    def _leases_of_lanes(self, tasks: Iterable[Task]) -> None:
        """A lane holds two leases at most, and one at most of an attempt that still needs its GPU."""
        leased = [task for task in tasks if task.state is TaskState.LEASED]
        holders = Counter(task.lane_id for task in leased)
        rendering = Counter(task.lane_id for task in leased if task.stage is not Stage.ENCODING)
        self.expect(max(holders.values(), default=0) <= 2, f"a lane holds three leases on disk: {holders}")
        self.expect(max(rendering.values(), default=0) <= 1, f"a lane holds two leases on disk while its GPU is busy: {rendering}")

    def _stored(self, task: Task) -> None:
        name, before = self.named(task.task_id), self._disk.tasks.get(task.task_id)
        self.expect(task.state is not TaskState.HELD, f"{name} is stored while it is held")
        self.expect(task.task_id not in self.refused, f"{name} was refused and is stored")
        self.expect(task.task_id not in self.deleted, f"{name} is stored after its deletion")
        self.expect((task.result is not None) == (task.state is TaskState.DONE), f"{name} is {task.state} with result {task.result}")
        has_failed = task.state in (TaskState.FAILED, TaskState.CANCELLED)
        self.expect((task.failure is not None) == has_failed, f"{name} is {task.state} with failure {task.failure}")
        self.expect(task.lost_lanes < MAX_LOST_LANES or task.state in TERMINAL, f"{name} goes on after {task.lost_lanes} lost lanes")
        if task.request_id:
            other = self._disk.of_request.get((task.owner, task.request_id), task.task_id)
            self.expect(other == task.task_id, f"{name} and {self.named(other)} are stored with the same idempotency key")
        if before is not None:
            self.expect(task.attempt >= before.attempt, f"{name} went from attempt {before.attempt} back to {task.attempt}")
            self.expect(task.lost_lanes >= before.lost_lanes, f"{name} has fewer lost lanes than before")
            if before.state in TERMINAL:
                same = (task.state, task.attempt, task.result, task.failure) == (
                    before.state,
                    before.attempt,
                    before.result,
                    before.failure,
                )
                self.expect(same, f"{name} was {before.state} and became {task.state}, attempt {task.attempt}")
        if task.state is TaskState.DONE and (before is None or before.state is not TaskState.DONE):
            self._committed(task, before)

    def _committed(self, task: Task, before: Task | None) -> None:
        name = f"{self.named(task.task_id)} attempt {task.attempt}"
        is_current = before is not None and before.state is TaskState.LEASED and before.attempt == task.attempt
        self.expect(is_current, f"{name} is committed, and no lease for it was on disk")
        key = task.result.video_key if task.result is not None else ""
        self.expect(key.startswith(attempt_prefix(task.task_id, task.attempt)), f"{name} is committed with {key}")
        writer = self._objects.files.get(key)
        holder = None if before is None else (before.lane_id, before.boot_id)
        is_holder = writer is not None and (writer.lane_id, writer.boot_id) == holder
        self.expect(is_holder, f"{name} is committed for {holder} with a file of {writer}")

    def _event(self, event: Event, batch: Batch) -> None:
        if event.task_id is None or event.task_id in batch.deleted:
            return
        about, name = (event.task_id, event.attempt), f"{self.named(event.task_id)} attempt {event.attempt}"
        # What an attempt left behind is recorded whatever became of its task; nothing else happens to a deleted one.
        is_late_word = event.event_type in ("memory_record", "attempt_refused")
        self.expect(is_late_word or event.task_id not in self.deleted, f"{event.event_type} of {name} is stored after its deletion")
        if event.event_type == "attempt_started":
            self.expect(about not in self._started, f"{name} started twice")
            self._started.add(about)
        elif event.event_type == "memory_record":
            self.expect(about not in self._recorded, f"{name} has two memory records")
            self.expect(about in self._started, f"{name} has a memory record and never started")
            self._recorded.add(about)

    def _removed(self, key: str) -> None:
        _, task_id, attempt, _ = key.split("/")
        task = self._disk.tasks.get(TaskId(task_id))
        if task is not None and task.attempt == int(attempt):
            is_wanted = task.state in (TaskState.DONE, TaskState.LEASED)
            self.expect(not is_wanted, f"files of {self.named(task_id)} attempt {attempt} are removed, and it is {task.state}")


class CoreWatch:
    """The invariants that concern each decision of one admission's core, and the order in which it serves."""

    def __init__(self, checker: Checker, state: State, epoch: int) -> None:
        self._checker = checker
        self._state = state
        self._epoch = epoch
        self._held: dict[TaskId, tuple[float, int, Model]] = {}
        # By model, who waits and who gets the turns: how many, and which tasks waited at the last.
        self._turns: dict[tuple[str, str, str], tuple[int, frozenset[TaskId]]] = {}
        self._events = 0
        self._boots: dict[LaneId, list[str]] = {}

    def decided(self, event: CoreEvent, commands: list[Command], now: Now) -> None:
        """One event was handled."""
        if isinstance(event, TaskSubmitted):
            self._held[event.task.task_id] = (now.monotonic_s - event.waited_s, self._events, event.task.model)
            self._is_rightly_taken(event, commands)
        answers: dict[TaskId, int] = {}
        for index, command in enumerate(commands):
            match command:
                case ReplyAccepted(task=task):
                    answers[task.task_id] = answers.get(task.task_id, 0) + 1
                    self._is_first_held(task)
                    is_written = any(isinstance(one, PersistTask) and one.task.task_id == task.task_id for one in commands[:index])
                    self._expect(is_written, f"{self._named(task.task_id)} is accepted without a write before it")
                case ReplyOverloaded(task_id=task_id):
                    answers[task_id] = answers.get(task_id, 0) + 1
                    self._refused(command)
                case ReplyRefused(task_id=task_id):
                    answers[task_id] = answers.get(task_id, 0) + 1
                    self._refused_for_good(command, event)
                case PersistTask(task=task) if task.state is TaskState.LEASED and task.stage is Stage.DISPATCH:
                    self._took_turn(task)
                    self._may_work(task)
                case Record(event=Event(event_type="lane_lost" | "lease_returned", lane_id=lane_id, reason=reason)) if lane_id is not None:
                    self._lost(lane_id, reason, now)
        self._expect(all(count == 1 for count in answers.values()), "a request was answered twice in one decision")
        for task_id in [task_id for task_id in self._held if task_id not in self._state.held]:
            del self._held[task_id]
        if isinstance(event, LaneReported):
            self._heard(event.report.spec.lane_id)
        elif isinstance(event, CallerLeft):
            self._expect(event.task_id not in self._state.held, f"{self._named(event.task_id)} is held for a caller that left")
        self._bounds(now)
        self._events += 1
        if self._events % _WHOLE_EVERY == 0 or not isinstance(event, TimePassed | LaneReported | LaneDetached | TaskSubmitted):
            self._whole()

    def _refused(self, reply: ReplyOverloaded) -> None:
        text = f"{self._named(reply.task_id)} is refused by {reply.cause} at depth {reply.depth} after {reply.waited_s} s"
        if reply.cause == "depth":
            self._expect(reply.depth == MAX_DEPTH and reply.task_id not in self._state.held, text)
        else:
            self._expect(reply.waited_s >= MAX_WAIT_S, text)

    def _refused_for_good(self, reply: ReplyRefused, event: CoreEvent) -> None:
        """Only what no known lane has room for. Nothing of it is kept."""
        task_id = reply.task_id
        self._checker.refused.add(task_id)
        text = f"{self._named(task_id)} is refused"
        self._expect(task_id not in self._state.tasks, f"{text} and kept")
        match event:
            case TaskSubmitted(task=task):
                possible = is_possible(self._state, task.model, asked(task))
            case RequestTurnedAway(model=model, shape=shape) if shape is not None:
                possible = is_possible(self._state, model, shape)
            case _:
                possible = True
        is_memory = reply.refusal.code is RefusalCode.VRAM_EXCEEDED
        self._expect(is_memory and not possible, f"{text} ({reply.refusal}), and a lane has room for it")

    def _is_rightly_taken(self, event: TaskSubmitted, commands: list[Command]) -> None:
        """What no known lane has room for is neither accepted nor held."""
        task = event.task
        is_refused = any(isinstance(one, ReplyRefused) and one.task_id == task.task_id for one in commands)
        text = f"{self._named(task.task_id)} is not refused, and no lane has room for it"
        self._expect(is_refused or is_possible(self._state, task.model, asked(task)), text)

    def _bounds(self, now: Now) -> None:
        state = self._state
        self._expect(len(state.held) + len(state.rescued) <= MAX_DEPTH, f"{len(state.held)} are held and {len(state.rescued)} rescued")
        self._expect(len(state.rescued) <= MAX_RESCUED, f"{len(state.rescued)} are rescued at a time")
        if state.held:
            oldest_s = min(state.held.values())
            self._expect(now.monotonic_s - oldest_s < MAX_WAIT_S, f"a request is held for {now.monotonic_s - oldest_s} s")

    def _is_first_held(self, task: Task) -> None:
        """The pool takes the oldest it can render; a lane, or a queue that opens, takes the oldest of its model."""
        if task.task_id not in self._held:
            return
        is_pool, own = task.lane_mode is LaneMode.DEGRADED_SHARED, self._held[task.task_id]
        for other_id, other in self._held.items():
            is_before = other[:2] < own[:2] and (is_pool or other[2] == task.model) and self._could_take(task, other_id)
            text = f"{self._named(task.task_id)} was taken before {self._named(other_id)}, which waits longer"
            self._expect(not (is_before and other_id in self._state.held), text)

    def _could_take(self, task: Task, other_id: TaskId) -> bool:
        """Whether what took the one could have taken the other: the pool's lane itself, or some ready lane of the model."""
        other = self._state.tasks.get(other_id)
        if other is None:
            return False
        of_pool = task.lane_mode is LaneMode.DEGRADED_SHARED and task.lane_id is not None
        lane_ids = [task.lane_id] if of_pool and task.lane_id is not None else list(self._state.ready[task.model])
        lanes = [self._state.lanes[lane_id] for lane_id in lane_ids]
        return any(fits(self._state, lane, other.model, asked(other)) for lane in lanes if other.model in lane.spec.models)

    def _took_turn(self, task: Task) -> None:
        """While a caller's task waits in a model's queue, another caller gets at most two turns there."""
        waiting = {self._state.tasks[one].owner for one in self._state.queues[task.model] if self._is_passed(task, one)}
        if task.task_id in self._held:
            return
        # A task that the pool rescues or that runs again is a turn of its owner too, and nobody is passed over by it.
        passes_over = task.lane_mode is LaneMode.DEDICATED and task.attempt == 1
        for owner in waiting - {task.owner} if passes_over else ():
            turn, theirs = (task.model, owner, task.owner), self._waiting_of(task.model, owner)
            turns, waited = self._turns.get(turn, (0, frozenset()))
            # All that waited then may have left without a turn: by a cancel, or because the acceptance was not stored.
            turns = turns + 1 if waited & theirs else 1
            self._turns[turn] = (turns, theirs)
            self._expect(turns <= MAX_TURNS, f"{task.owner} got {turns} turns in a row while {owner} waits for {task.model}")
        over = [turn for turn in self._turns if turn[0] == task.model and (turn[1] == task.owner or turn[1] not in waiting)]
        for ended in over:
            del self._turns[ended]

    def _waiting_of(self, model: str, owner: str) -> frozenset[TaskId]:
        """The caller's tasks that wait for their first attempt."""
        waiting = (self._state.tasks[one] for one in self._state.queues[Model(model)])
        return frozenset(one.task_id for one in waiting if one.owner == owner and one.attempt == 0)

    def _is_passed(self, task: Task, other_id: TaskId) -> bool:
        """The other waits for its first attempt, and the lane that took the task could have taken it."""
        other = self._state.tasks[other_id]
        lane = None if task.lane_id is None else self._state.lanes.get(task.lane_id)
        return other.attempt == 0 and lane is not None and fits(self._state, lane, other.model, asked(other))

    def _may_work(self, task: Task) -> None:
        """A lane gets what fits there; nothing when an operator drained it, or when its model goes to the pool."""
        lane = None if task.lane_id is None else self._state.lanes.get(task.lane_id)
        name = self._named(task.task_id)
        self._expect(lane is not None and not lane.is_drained, f"{name} is given to {task.lane_id}, which is drained")
        if lane is not None:
            placement = lane.lease.placement if lane.lease is not None and lane.lease.task_id == task.task_id else ""
            works = () if lane.report is None else lane.report.works
            busy = [work.lease for work in works if not work.gpu_free and work.outcome is None]
            self._expect(not busy, f"{name} is given to {task.lane_id} while its GPU is busy with {busy}")
            has_room = fits(self._state, lane, task.model, asked(task), placement=placement)
            self._expect(has_room, f"{name} {asked(task)} is given to {task.lane_id} as {placement!r}, which has no room for it")
            self._expect(lane.spec.memory is None or bool(placement), f"{name} is given to {task.lane_id} without a placement")
        is_pool = task.lane_mode is LaneMode.DEGRADED_SHARED
        self._expect(is_pool or not self._state.policy(task.model).is_fallback_manual, f"{name} goes to {task.lane_id}, not to the pool")

    def _lost(self, lane_id: LaneId, reason: str, now: Now) -> None:
        """A lease that ran out lasted its time from the last report, and from the start of this admission."""
        lane = self._state.lanes.get(lane_id)
        if lane is not None and reason.startswith("no report"):
            lasted_s = now.monotonic_s - max(self._state.started_at_s, lane.reported_at_s or 0.0)
            self._expect(lasted_s >= LEASE_S, f"the lease of {lane_id} ran out after {lasted_s} s")

    def _heard(self, lane_id: LaneId) -> None:
        """A process of the lane that a newer one replaced is not listened to any more."""
        boots, lane = self._boots.setdefault(lane_id, []), self._state.lanes.get(lane_id)
        if lane is not None and (not boots or boots[-1] != lane.boot_id):
            self._expect(lane.boot_id not in boots, f"{lane_id} went back to {lane.boot_id}")
            boots.append(lane.boot_id)

    def _whole(self) -> None:
        state = self._state
        leases = [lease for lane in state.lanes.values() for lease in lane.leases]
        leased = {lease.task_id: lease.attempt for lease in leases}
        self._expect(len(leased) == len(leases), "a task has two live leases")
        queued = [task_id for queue in state.queues.values() for task_id in queue]
        self._expect(len(queued) == len(set(queued)) == sum(map(len, state.queues.values())), "a queue counts wrong")
        waiting = set(queued)
        for task_id, task in state.tasks.items():
            expected = _place(task)
            places = [name for name, of in (("held", state.held), ("queued", waiting), ("leased", leased)) if task_id in of]
            self._expect(places == [expected], f"{self._named(task_id)} is {task.state} and stands in {places}")
            if expected == "leased":
                self._expect(leased.get(task_id) == task.attempt, f"{self._named(task_id)} attempt {task.attempt}: the lease is another")
        self._expect(state.held.keys() <= state.tasks.keys() and waiting <= state.tasks.keys(), "something unknown waits")
        self._expect(state.rescued.keys() <= waiting, "something is rescued that does not wait")
        self._expect(state.unfit_since_s.keys() <= waiting, "something fits no ready lane that does not wait")
        self._expect(state.not_served_at_s.keys() == waiting, "a waiting task has no last moment, or something else has")

    def _expect(self, holds: bool, text: str) -> None:
        if not holds:
            self._checker.expect(False, f"epoch {self._epoch}: {text}")

    def _named(self, task_id: str) -> str:
        return self._checker.named(task_id)


def missing(told: Iterable[int], stored: Iterable[Event], last: int) -> list[int]:
    """Sequences up to the last one told that a watcher was not told."""
    known = set(told)
    return [event.sequence for event in stored if event.sequence <= last and event.sequence not in known]


def _place(task: Task) -> str:
    return _PLACES.get(task.state, "nowhere")
