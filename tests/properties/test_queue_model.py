"""The core against a naive model: lists, written from the rules of the design; order, places, waits and leases must be the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from admission.core.events import FallbackSet, LaneDrainSet
from admission.core.lanes import Outcome, Work
from admission.core.limits import Limits
from admission.core.tasks import LaneId, MemoryRecord, Model, Stage, TaskId
from tests.harness.core import ANISORA, PHR00T, RESULT, World

# Renders and waits may last as long as they like here: these limits are checked elsewhere.
_LIMITS = Limits(render_deadline_s=1e9, render_deadline_max_s=1e9, not_served_s=1e9)
# Without a render time nothing is learned, so that no queue closes by its predicted wait.
_DONE = Outcome(result=RESULT, memory=MemoryRecord(figures={"device": "cpu"}))
_LANES = {
    "lane-anisora": (ANISORA,),
    "lane-anisora-2": (ANISORA,),
    "lane-phr00t": (PHR00T,),
    "pool": (ANISORA, PHR00T),
    "pool-2": (PHR00T,),
}
_CONTACT_S = 4.0


@dataclass(slots=True)
class NaiveLane:
    """A lane: whom it serves, whether it can, what has its GPU, and what it finishes without."""

    models: tuple[Model, ...]
    is_pool: bool
    is_warm: bool = True
    is_drained: bool = False
    task: str | None = None
    finishing: str | None = None


@dataclass(slots=True)
class NaiveTask:
    """A request and later a task."""

    name: str
    model: Model
    owner: str
    since_s: float = 0.0


@dataclass(slots=True)
class NaiveQueues:
    """Everything that waits, in plain lists. Times are seconds since the start."""

    now_s: float = 0.0
    held: list[NaiveTask] = field(default_factory=list)
    queues: dict[Model, list[NaiveTask]] = field(default_factory=lambda: {ANISORA: [], PHR00T: []})
    turns: dict[Model, list[str]] = field(default_factory=lambda: {ANISORA: [], PHR00T: []})
    rescued: list[NaiveTask] = field(default_factory=list)
    lanes: dict[str, NaiveLane] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    manual: set[Model] = field(default_factory=set)
    unserved_s: dict[Model, float] = field(default_factory=lambda: {ANISORA: 0.0, PHR00T: 0.0})
    accepted: list[str] = field(default_factory=list)
    overloaded: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Places taken of the 25."""
        return len(self.held) + len(self.rescued)

    def submit(self, task: NaiveTask, waited_s: float) -> None:
        """Dedicated at once, or held, or refused."""
        task.since_s = self.now_s - waited_s
        if self.is_open(task.model):
            self.enqueue(task)
        elif waited_s >= 30.0:
            self.overloaded[task.name] = ("wait", self.depth, waited_s)
        elif self.depth >= 25:
            self.overloaded[task.name] = ("depth", 25, waited_s)
        else:
            self.held.append(task)
            self.held.sort(key=lambda one: one.since_s)
        self.settle()

    def is_open(self, model: Model) -> bool:
        """Whether the model's own queue takes a task."""
        return self.is_served(model) and len(self.queues[model]) < 25

    def is_served(self, model: Model) -> bool:
        """A lane of the model's own is ready, and no operator sends the model to the pool."""
        lanes = [lane for lane in self.lanes.values() if not lane.is_pool and model in lane.models]
        return model not in self.manual and any(lane.is_warm and not lane.is_drained for lane in lanes)

    def can_work(self, name: str) -> bool:
        """The lane can be given something now."""
        lane = self.lanes[name]
        is_wanted = lane.is_pool or lane.models[0] not in self.manual
        return lane.is_warm and not lane.is_drained and is_wanted and lane.task is None

    def enqueue(self, task: NaiveTask) -> None:
        """Accepted into its model's queue, behind the owner's other tasks."""
        self.accepted.append(task.name)
        self.queues[task.model].append(task)
        if task.owner not in self.turns[task.model]:
            self.turns[task.model].append(task.owner)

    def order(self, model: Model) -> list[NaiveTask]:
        """In which lanes will take the model's tasks: one of each caller, and again."""
        waiting = {owner: [task for task in self.queues[model] if task.owner == owner] for owner in self.turns[model]}
        rounds = range(max(map(len, waiting.values()), default=0))
        return [tasks[turn] for turn in rounds for tasks in waiting.values() if turn < len(tasks)]

    def remove(self, task: NaiveTask, *, is_turn: bool) -> None:
        """Out of its queue; if it was its caller's turn, that is over."""
        turns = self.turns[task.model]
        was_first = turns[0] == task.owner
        self.queues[task.model].remove(task)
        if task in self.rescued:
            self.rescued.remove(task)
        if not any(other.owner == task.owner for other in self.queues[task.model]):
            turns.remove(task.owner)
        elif is_turn and was_first:
            turns.append(turns.pop(0))

    def give(self, name: str, task: NaiveTask) -> None:
        """A lane takes a task."""
        if task in self.held:
            self.held.remove(task)
            self.accepted.append(task.name)
        else:
            self.remove(task, is_turn=True)
        self.lanes[name].task = task.name
        self.idle.remove(name)

    def settle(self) -> None:
        """Whatever can happen now happens: held requests enter an open queue, idle lanes take what is first for them."""
        self.idle = [name for name in self.idle if self.can_work(name)]
        self.idle += [name for name in self.lanes if name not in self.idle and self.can_work(name)]
        for model in self.queues:
            self.take_held(model)
            while (name := self.idle_lane(model)) is not None and self.queues[model]:
                self.give(name, self.order(model)[0])
                self.take_held(model)
        for name in [name for name in self.idle if self.lanes[name].is_pool]:
            fitting = [task for task in (*self.rescued, *self.held) if task.model in self.lanes[name].models]
            if fitting:
                self.give(name, fitting[0])
                self.take_held(fitting[0].model)
        for model in self.queues:
            if self.is_served(model):
                self.unserved_s.pop(model, None)
            else:
                self.unserved_s.setdefault(model, self.now_s)

    def take_held(self, model: Model) -> None:
        """The oldest first, while the queue is open."""
        while self.is_open(model) and (task := next((one for one in self.held if one.model == model), None)) is not None:
            self.held.remove(task)
            self.enqueue(task)

    def idle_lane(self, model: Model) -> str | None:
        """The model's own lane that is idle for longest."""
        return next((name for name in self.idle if not self.lanes[name].is_pool and model in self.lanes[name].models), None)

    def next_s(self) -> float:
        """When time alone changes something: a wait reaches its limit, or a task has been unserved for long enough."""
        times = [task.since_s + 30.0 for task in self.held]
        for model, since_s in self.unserved_s.items():
            if any(task not in self.rescued for task in self.queues[model]):
                # A place that becomes free is found by a look every second.
                looks = max(0, int(self.now_s - since_s - 30.0) + 1) if self.now_s >= since_s + 30.0 else 0
                times.append(since_s + 30.0 + looks)
        return min(times, default=float("inf"))

    def time_is(self, now_s: float) -> None:
        """It is so late now; at exactly the limit, expiry wins."""
        self.now_s = now_s
        for task in [one for one in self.held if one.since_s + 30.0 <= now_s]:
            self.overloaded[task.name] = ("wait", self.depth, now_s - task.since_s)
            self.held.remove(task)
        for model, since_s in self.unserved_s.items():
            if now_s >= since_s + 30.0 and (now_s - since_s) % 1.0 == 0.0:
                for task in self.order(model):
                    if task not in self.rescued and len(self.rescued) < 5 and self.depth < 25:
                        self.rescued.append(task)
        self.settle()


class CoreAgainstModel(RuleBasedStateMachine):
    """The same happens to both. Times are exact binary fractions of a second.

    Requests come at whole eighths, and who serves changes halfway between two: a wait and a rescue are never due at the same instant, for
    which the design has no rule.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World(_LIMITS)
        self.model = NaiveQueues()

    @rule(model=st.sampled_from([ANISORA, ANISORA, PHR00T]), owner=st.sampled_from("abc"), times=st.integers(1, 12))
    def submit(self, model: Model, owner: str, times: int) -> None:
        for _ in range(times):
            self._submit(model, owner, 0.0)

    @rule(model=st.sampled_from([ANISORA, PHR00T]), waited_s=st.sampled_from([0.5, 12.25, 29.875, 30.0, 31.0]))
    def submit_again_after_a_restart(self, model: Model, waited_s: float) -> None:
        self._submit(model, "d", waited_s)

    @rule(name=st.sampled_from(sorted(_LANES)))
    def lane_attaches(self, name: str) -> None:
        if name not in self.model.lanes:
            with self._between():
                self.model.lanes[name] = NaiveLane(models=_LANES[name], is_pool=name.startswith("pool"))
                self.model.settle()
                self.world.attach(name, *_LANES[name], pool=name.startswith("pool"))

    @rule(data=st.data())
    @precondition(lambda self: self.model.lanes)
    def lane_turns_cold_or_warm(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.lanes)))
        lane = self.model.lanes[name]
        with self._between():
            lane.is_warm = not lane.is_warm
            self.model.settle()
            self.world.report(LaneId(name), work=self._work(name), warm=lane.is_warm)

    @rule(data=st.data())
    @precondition(lambda self: self.model.lanes)
    def operator_drains_or_resumes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.lanes)))
        lane = self.model.lanes[name]
        with self._between():
            lane.is_drained = not lane.is_drained
            self.model.settle()
            self.world.handle(LaneDrainSet(lane_id=LaneId(name), drained=lane.is_drained))

    @rule(model=st.sampled_from([ANISORA, PHR00T]))
    def operator_turns_fallback(self, model: Model) -> None:
        with self._between():
            self.model.manual ^= {model}
            self.model.settle()
            self.world.handle(FallbackSet(model=model, enabled=model in self.model.manual))

    @rule(data=st.data(), times=st.integers(1, 4))
    @precondition(lambda self: any(lane.task for lane in self.model.lanes.values()))
    def renders_end(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            busy = sorted(name for name, lane in self.model.lanes.items() if lane.task)
            if busy:
                name = data.draw(st.sampled_from(busy))
                self.model.lanes[name].task = None
                self.model.settle()
                self.world.ends(LaneId(name), _DONE)

    @rule(data=st.data())
    @precondition(lambda self: any(lane.task and not lane.finishing for lane in self.model.lanes.values()))
    def gpu_becomes_free(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, lane in self.model.lanes.items() if lane.task and not lane.finishing)))
        lane = self.model.lanes[name]
        lane.finishing, lane.task = lane.task, None
        self.model.settle()
        self.world.frees_gpu(LaneId(name))

    @rule(data=st.data())
    @precondition(lambda self: any(lane.finishing for lane in self.model.lanes.values()))
    def lane_has_finished(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, lane in self.model.lanes.items() if lane.finishing)))
        self.model.lanes[name].finishing = None
        self.model.settle()
        self.world.has_finished(LaneId(name), _DONE, self._work(name))

    @rule(data=st.data())
    @precondition(lambda self: self.model.held)
    def caller_leaves(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.model.held))
        self.model.held.remove(task)
        self.model.settle()
        self.world.leave(TaskId(task.name))

    @rule(data=st.data())
    @precondition(lambda self: any(self.model.queues.values()))
    def task_is_cancelled(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from([task for queue in self.model.queues.values() for task in queue]))
        self.model.remove(task, is_turn=False)
        self.model.settle()
        self.world.cancel(TaskId(task.name))

    @rule(seconds=st.sampled_from([0.125, 1.0, 9.875, 29.875, 30.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self._advance(seconds)

    @invariant()
    def held_requests_are_the_same(self) -> None:
        held = [(task_id, since_s - 1000.0) for task_id, since_s in self.world.core.state.held.items()]
        assert held == [(task.name, task.since_s) for task in self.model.held]

    @invariant()
    def queues_are_the_same(self) -> None:
        state = self.world.core.state
        for model, queue in state.queues.items():
            assert list(queue) == [task.name for task in self.model.order(model)]
        assert list(state.rescued) == [task.name for task in self.model.rescued]

    @invariant()
    def leases_are_the_same(self) -> None:
        leases = {name: lane.lease.task_id for name, lane in self.world.core.state.lanes.items() if lane.lease is not None}
        assert leases == {name: lane.task for name, lane in self.model.lanes.items() if lane.task}
        aside = {name: lane.finishing.lease.task_id for name, lane in self.world.core.state.lanes.items() if lane.finishing is not None}
        assert aside == {name: lane.finishing for name, lane in self.model.lanes.items() if lane.finishing}

    @invariant()
    def answers_are_the_same(self) -> None:
        assert sorted(self.world.accepted) == sorted(self.model.accepted)
        told = {name: (str(reply.cause), reply.depth, reply.waited_s) for name, reply in self.world.overloaded.items()}
        assert told == self.model.overloaded

    def _submit(self, model: Model, owner: str, waited_s: float) -> None:
        name = str(self.world.submit(model, owner, waited_s))
        self.model.submit(NaiveTask(name=name, model=model, owner=owner), waited_s)

    @contextmanager
    def _between(self) -> Iterator[None]:
        self._advance(1 / 16)
        yield
        self._advance(1 / 16)

    def _advance(self, seconds: float) -> None:
        end_s = self.world.elapsed_s + seconds
        while self.world.elapsed_s < end_s:
            part_s = min(_CONTACT_S, end_s - self.world.elapsed_s)
            until_s = self.world.elapsed_s + part_s
            while (next_s := self.model.next_s()) <= until_s:
                self.model.time_is(next_s)
            self.model.now_s = until_s
            self.world.advance(part_s)
            for name in self.model.lanes:
                self.world.report(LaneId(name), work=self._work(name))

    def _work(self, name: str) -> Work | None:
        lease = self.world.core.state.lanes[LaneId(name)].lease
        if lease is None:
            return None
        return Work(task_id=lease.task_id, attempt=lease.attempt, stage=Stage.INFERENCE, progress=10)


TestCoreAgainstModel = CoreAgainstModel.TestCase
TestCoreAgainstModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
