"""One history: admission, lanes, callers and operators in virtual time, what befalls them, and the story of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import replace
from random import Random
from unittest.mock import patch

import structlog

from admission import object_sweeper
from admission.core.limits import Limits
from admission.core.tasks import Task
from admission.store.port import Batch
from tests.simulation.admissions import Admission
from tests.simulation.callers import Call, Callers
from tests.simulation.disk import Disk
from tests.simulation.fates import Fates
from tests.simulation.invariants import Checker
from tests.simulation.lanes import Identity, LaneProcess
from tests.simulation.loop import TICKS_PER_S, Loop, seeded
from tests.simulation.objects import ModelObjects, Obstore
from tests.simulation.plan import Plan, Step
from tests.simulation.watchers import EventReader, Watcher

# After the faults: every wait of the design ends within an hour, and a task that was queued again late in it within another.
_PATIENCE_S = 2.5 * 3600.0
_LOOK_S = 3.0


class Network:
    """How long messages take."""

    def __init__(self, loop: Loop, random: Random, longest_s: float) -> None:
        self.longest_s = longest_s
        self._loop = loop
        self._random = random

    def delay_s(self) -> float:
        """Of one message; now and then a message waits for a retransmission."""
        dice = self._random.random()
        return dice * self.longest_s if dice > 0.01 else 0.2 + 50 * dice

    def arrival_s(self, last_s: float) -> float:
        """When a message arrives that follows another one on the same way."""
        return max(last_s + 1 / TICKS_PER_S, self._loop.time() + self.delay_s())

    def death_s(self) -> float:
        """Until a peer hears that a process died: at once, or by keepalive when its machine went with it."""
        return self.delay_s() if self._random.random() < 0.8 else 10.0 + self._random.random() * 10.0


class World:
    """Everything of one history. `run` plays it; then `violations` says what broke."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.story: list[str] = []
        self.random = seeded(plan.seed ^ 0x5EED)
        # Abstract in the types only: what asyncio's tasks and timeouts do not call is not there.
        self.loop = Loop(seeded(self.random.random()))  # type: ignore[abstract]
        self.network = Network(self.loop, seeded(self.random.random()), plan.longest_delay_s)
        self.limits = Limits(report_interval_s=plan.report_interval_s)
        self.nature = plan.nature
        self.disk = Disk()
        self.disk.faults.longest_s = plan.longest_write_s
        self.longest_write_s = plan.longest_write_s
        self.objects = ModelObjects(seeded(self.random.random()))
        self.checker = Checker(self.disk, self.objects, self.name_of)
        self.utc_off_s = 0.0
        self.admissions: list[Admission] = []
        self.lanes: dict[Identity, list[LaneProcess]] = {identity: [] for identity in plan.lanes}
        self.callers = Callers(self, seeded(self.random.random()))
        self.reader = EventReader(self)
        self.is_calm = False
        self._fates = Fates(self, seeded(self.random.random()))
        self._ids = 0
        self._boots = 0
        self._started = 0
        self._hash = hashlib.sha256()
        self._check = self.disk.on_write
        self.disk.on_write = self._wrote

    def run(self) -> None:
        """Plays the plan, mends everything, waits until all is quiet, and checks what must hold then."""
        self.start_admission()
        for identity in self.plan.lanes:
            self.boot(identity)
        for step in self.plan.steps:
            self.at(step.at_s, self._befall, step)
        self.at(self.plan.faults_until_s, self._mend)
        self.after(_LOOK_S, self._look)
        self.loop.run_until(self._is_over, self.plan.faults_until_s + _PATIENCE_S)
        if not self.violations:
            self.tell("the end")
            self.checker.at_the_end()
            self.checker.expect(self.callers.open_calls == 0, f"{self.callers.open_calls} calls were never answered")
            for watcher in self.callers.watchers:
                watcher.check()
            self.reader.check()
        for wanted in self.callers.wanted:
            self._trace(f"{wanted.number} {wanted.answer}")
        self.loop.dispose()

    @property
    def violations(self) -> list[str]:
        """What broke; empty when all held."""
        return self.checker.violations + self.loop.failures

    @property
    def digest(self) -> str:
        """Of everything that happened: the same for the same plan."""
        return self._hash.hexdigest()

    def tell(self, line: str) -> None:
        """Adds a line to the story."""
        self.story.append(f"{self.loop.time():10.4f}  {line}")
        self._trace(self.story[-1])

    def trace(self, line: str) -> None:
        """Adds to the digest what the story need not tell."""
        self._trace(f"{self.loop.time()} {line}")

    def name_of(self, task_id: str) -> str:
        """A short name for people."""
        return f"task-{int(task_id, 16)}"

    def new_id(self) -> str:
        """Of a task."""
        self._ids += 1
        return f"{self._ids:032x}"

    def at(self, when_s: float, function: Callable[..., object], *args: object) -> None:
        """The world does something at this time; no process does."""
        self.loop.call_at(when_s, function, *args, context=Context())

    def after(self, delay_s: float, function: Callable[..., object], *args: object) -> None:
        """The world does something so much later."""
        self.at(self.loop.time() + delay_s, function, *args)

    def start_admission(self) -> None:
        """A new admission process; one may be there already."""
        self._started += 1
        self.admissions.append(Admission(self, self._started, seeded(self.random.random())))

    def boot(self, identity: Identity) -> None:
        """A new process of the lane; one may be there already."""
        self._boots += 1
        self.tell(f"{identity.lane_id}#{self._boots} boots")
        self.lanes[identity].append(LaneProcess(self, identity, self._boots, seeded(self.random.random())))

    def front(self) -> Admission | None:
        """Where a connection goes that is opened now: of several that serve, to any."""
        serving = [one for one in self.admissions if one.is_serving and one.process.is_alive and not one.process.is_frozen]
        return self.random.choice(serving) if serving else None

    def admission_died(self, admission: Admission) -> None:
        """Its calls are lost, and someone starts the next."""
        self.admissions.remove(admission)
        self.end_calls(admission)
        if not self.admissions:
            self.after(0.1 + self.random.random() * (0.5 if self.is_calm else 5.0), self._restart_admission)

    def end_calls(self, admission: Admission) -> None:
        """Whoever waits for this admission hears that it is gone."""
        calls = list(admission.calls.values())
        admission.calls.clear()
        for call in calls:
            match call:
                case Call():
                    self.callers.connection_lost(call)
                case Watcher() | EventReader():
                    call.lost()

    def lane_died(self, lane: LaneProcess) -> None:
        """The next process of it boots, unless another is there."""
        self.lanes[lane.identity].remove(lane)
        if not self.lanes[lane.identity] and not (self.is_calm and not self.plan.is_mended):
            self.after(self.random.random() * (1.0 if self.is_calm else 20.0), self._restart_lane, lane.identity)

    def _restart_admission(self) -> None:
        if not self.admissions:
            self.start_admission()

    def _restart_lane(self, identity: Identity) -> None:
        if not self.lanes[identity]:
            self.boot(identity)

    def _befall(self, step: Step) -> None:
        self._fates.befall(step)

    def _mend(self) -> None:
        self.is_calm = True
        self.tell("everything is mended" if self.plan.is_mended else "nothing happens any more")
        self._fates.mend()

    def _look(self) -> None:
        """An operator looks at the whole picture every few seconds."""
        self.after(_LOOK_S if not self.is_calm else 20.0, self._look)
        front = self.front()
        if front is not None:
            snapshot = front.engine.snapshot()
            depth = snapshot.degraded.depth
            self.checker.expect(depth == snapshot.degraded.held + snapshot.degraded.rescued <= 25, f"a snapshot shows depth {depth}")
            if self.is_calm and snapshot.controller_epoch != self.disk.epoch:
                # It was replaced by one that died, and learns of it at its next write only: whoever runs it starts it anew.
                front.stop()

    def _is_over(self) -> bool:
        if self.checker.violations:
            return True
        if not self.is_calm:
            return False
        if self.disk.unfinished or self.callers.open_calls or not self.front_is_up():
            return False
        return all(watcher.is_over for watcher in self.callers.watchers) and self.reader.is_caught_up

    def front_is_up(self) -> bool:
        """One admission rules and serves."""
        return len(self.admissions) == 1 and self.admissions[0].is_serving

    def _wrote(self, epoch: int, batch: Batch) -> None:
        self._check(epoch, batch)
        told = ", ".join(f"{self.name_of(task.task_id)} {task.state} {task.attempt}" for task in batch.tasks if self._is_news(task))
        if told:
            self.tell(f"stored: {told}")
        self.trace(f"{len(batch.tasks)} {[event.event_type for event in batch.events]}")

    def _is_news(self, task: Task) -> bool:
        before = self.disk.tasks.get(task.task_id)
        return before is None or (before.state, before.attempt) != (task.state, task.attempt)

    def _trace(self, line: str) -> None:
        self._hash.update(line.encode())


@contextmanager
def seams() -> Iterator[None]:
    """Puts the model object store in the place of obstore, and keeps the logs quiet."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), processors=[_drop])
    try:
        with patch.object(object_sweeper, "obstore", Obstore):
            yield
    finally:
        structlog.configure(**before)


def _drop(logger: object, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


def play(seed: int, steps: tuple[Step, ...] | None = None) -> World:
    """The history of a seed, or of some of its steps."""
    plan = Plan.of(seed)
    if steps is not None:
        plan = replace(plan, steps=steps)
    world = World(plan)
    world.run()
    return world
