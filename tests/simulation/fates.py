"""How each kind of step is carried out, and how everything is mended at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from admission.core.tasks import Model, TaskId, TaskState
from admission.engine_types import NotYetStoredError, UnknownLaneError
from admission.store.port import StoreUnavailableError
from runtime.lane.state import Working
from tests.simulation.callers import SIZES
from tests.simulation.lanes import LaneProcess
from tests.simulation.loop import seeded
from tests.simulation.plan import ANISORA, PHR00T, Step

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from tests.simulation.admissions import Admission
    from tests.simulation.world import World

_OWNERS = ("ada", "bo", "cy")
_SIZES = (SIZES[0], SIZES[0], SIZES[1], SIZES[1], SIZES[2], SIZES[2], SIZES[3])


class Fates:
    """Carries out steps. Everything a step chooses comes from its own dice, so that it does not depend on the steps before it."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random

    def befall(self, step: Step) -> None:
        """One step."""
        self._random = seeded(step.dice)
        carry_out: Callable[[], None] = getattr(self, f"_{step.kind}")
        carry_out()

    def mend(self) -> None:
        """The disk is well, the network quick, one admission is there, the lanes run; operators take back what they said, mostly."""
        world, faults = self._world, self._world.disk.faults
        faults.full_until_s = faults.locked_until_s = 0.0
        faults.crash = ""
        faults.longest_s = world.plan.longest_write_s
        world.network.longest_s = world.plan.longest_delay_s
        for admission in world.admissions:
            admission.process.steps_left = None
            admission.process.go_on()
        for old in world.admissions[:-1]:
            world.after(3.0, self._stop, old)
        for identity, lanes in world.lanes.items():
            for lane in lanes:
                # Who is frozen or cut off comes back at its own time.
                if not lane.is_healthy:
                    lane.set_health(healthy=True)
            if not world.plan.is_mended:
                for lane in list(lanes):
                    lane.kill()
            elif not lanes:
                world.boot(identity)
        if seeded(world.plan.seed).random() < 0.9:
            self._undo_operators()

    def _undo_operators(self) -> None:
        front = self._world.front()
        if front is None or len(self._world.admissions) > 1:
            self._world.after(1.0, self._undo_operators)
            return
        for identity in self._world.lanes:
            self._operate(front, partial(front.engine.drain_lane, identity.lane_id, drained=False))
        for model in (ANISORA, PHR00T):
            self._operate(front, partial(front.engine.set_fallback, model, enabled=False))
            self._operate(front, partial(front.engine.report_capacity, model, denied_for_s=None, reason=""))

    # Callers.

    def _burst(self) -> None:
        random = self._random
        count = random.choice((1, 1, 2, 3, 3, 6, 12, 30, 60))
        model, keyed = random.choice((ANISORA, PHR00T)), random.random() < 0.5
        self._world.tell(f"{count} requests for {model}{' with keys' if keyed else ''}")
        for _ in range(count):
            size = random.choice(_SIZES)
            self._world.callers.submit(model if random.random() < 0.9 else PHR00T, random.choice(_OWNERS), keyed=keyed, size=size)

    def _repeat(self) -> None:
        wanted = self._world.callers.wanted[-20:]
        for one in self._random.sample(wanted, min(3, len(wanted))):
            self._world.callers.repeat(one)

    def _misuse(self) -> None:
        wanted = self._world.callers.wanted[-20:]
        if wanted:
            self._world.callers.misuse(self._random.choice(wanted))

    def _hang_up(self) -> None:
        waiting = [wanted for wanted in self._world.callers.wanted if wanted.open_calls]
        for one in self._random.sample(waiting, min(self._random.choice((1, 5, 25)), len(waiting))):
            self._world.callers.hang_up(one)

    def _cancel(self) -> None:
        for task_id in self._some_tasks(self._random.choice((1, 1, 4))):
            self._world.callers.cancel(task_id, then_delete=False)

    def _delete(self) -> None:
        for task_id in self._some_tasks(1):
            self._world.callers.cancel(task_id, then_delete=True)

    def _watch(self) -> None:
        for task_id in self._some_tasks(1):
            self._world.callers.watch(task_id)

    def _look(self) -> None:
        """Someone looks at the first tasks and at one of them."""
        front = self._world.front()
        for task_id in self._some_tasks(1):
            if front is not None:
                self._operate(front, partial(front.engine.task, task_id))

    def _some_tasks(self, count: int) -> list[TaskId]:
        """Mostly tasks that are not over."""
        disk = self._world.disk
        among = list(disk.unfinished) if self._random.random() < 0.8 else list(disk.tasks)
        return self._random.sample(among, min(count, len(among)))

    # Lanes.

    def _lane(self) -> LaneProcess | None:
        """Mostly one that works on something."""
        running = [lane for lanes in self._world.lanes.values() for lane in lanes if lane.process.is_alive]
        busy = [lane for lane in running if any(isinstance(one, Working) for one in lane.state.activities)]
        among = busy if busy and self._random.random() < 0.8 else running
        return self._random.choice(among) if among else None

    def _lane_killed(self) -> None:
        if lane := self._lane():
            lane.kill()

    def _lane_frozen(self) -> None:
        if lane := self._lane():
            seconds = self._random.choice((1.0, 9.0, 12.0, 29.0, 31.0, 33.0, 45.0))
            self._world.tell(f"{lane.name} is frozen for {seconds} s")
            lane.process.freeze()
            self._world.after(seconds, self._thaw, lane)

    def _thaw(self, lane: LaneProcess) -> None:
        if lane.process.is_alive and lane.process.is_frozen:
            self._world.tell(f"{lane.name} goes on")
            lane.process.go_on()

    def _lane_cut(self) -> None:
        if lane := self._lane():
            hears_s = (0.0, 0.01, 5.0, 40.0)
            admission_s, lane_s = self._random.choice(hears_s), self._random.choice((0.0, 0.01, 5.0, 20.0))
            self._world.tell(f"{lane.name} is cut off; admission hears of it after {admission_s} s, the lane after {lane_s} s")
            lane.cut(admission_s, lane_s)

    def _lane_partitioned(self) -> None:
        """Cut off, and no way back for so long."""
        if lane := self._lane():
            seconds = self._random.choice((5.0, 15.0, 31.0, 33.0, 40.0))
            self._world.tell(f"{lane.name} cannot reach admission for {seconds} s")
            lane.unreachable_until_s = self._world.loop.time() + seconds
            lane.cut(self._random.choice((0.0, 40.0)), self._random.choice((0.0, 20.0)))

    def _lane_replaced(self) -> None:
        """A rolling update: two processes of one lane for a while."""
        if lane := self._lane():
            self._world.boot(lane.identity)
            self._world.after(self._random.random() * 10.0, self._drain_lane, lane, self._random.choice((0.5, 10.0)))

    def _lane_stopped(self) -> None:
        if lane := self._lane():
            self._drain_lane(lane, self._random.choice((0.5, 3.0, 20.0)))

    def _drain_lane(self, lane: LaneProcess, grace_s: float) -> None:
        if lane.process.is_alive and not lane.process.is_frozen:
            lane.drain(grace_s)

    def _child_dies(self) -> None:
        if (lane := self._lane()) and not lane.process.is_frozen:
            lane.child_dies()

    def _unhealthy(self) -> None:
        if (lane := self._lane()) and not lane.process.is_frozen:
            lane.set_health(healthy=False)
            self._world.after(self._random.choice((3.0, 65.0)), self._healthy_again, lane)

    def _healthy_again(self, lane: LaneProcess) -> None:
        if lane.process.is_alive and not lane.is_healthy:
            lane.set_health(healthy=True)

    # Admission.

    def _admission(self) -> Admission | None:
        return self._random.choice(self._world.admissions) if self._world.admissions else None

    def _crash(self) -> None:
        if admission := self._admission():
            admission.crash()

    def _crash_at_write(self) -> None:
        """At the next write, before or after it is on disk: with a reply that is still to be sent."""
        self._world.disk.faults.crash = self._random.choice(("before", "after"))
        self._world.tell(f"admission will die right {self._world.disk.faults.crash} its next write")

    def _crash_at_step(self) -> None:
        if admission := self._admission():
            admission.process.steps_left = self._random.choice((3, 10, 40, 150)) + self._random.randrange(10)
            self._world.tell(f"{admission.name} will die in {admission.process.steps_left} steps")

    def _cancel_then_crash(self) -> None:
        """Running tasks are cancelled, and admission dies before their lanes have said that they stopped."""
        running = [task_id for task_id, task in self._world.disk.unfinished.items() if task.state is TaskState.LEASED]
        for task_id in self._random.sample(running, min(2, len(running))):
            self._world.callers.cancel(task_id, then_delete=False)
        self._world.after(self._random.choice((0.002, 0.02, 0.2)), self._crash)

    def _overlap(self) -> None:
        """A deployment starts the next admission while this one still runs; that goes on until it hears that it was replaced."""
        if len(self._world.admissions) == 1:
            old = self._world.admissions[0]
            self._world.start_admission()
            if self._random.random() < 0.5:
                self._world.after(self._random.random() * 10.0, self._stop, old)

    def _restart(self) -> None:
        if admission := self._admission():
            self._stop(admission)

    def _stop(self, admission: Admission) -> None:
        if admission.process.is_alive and admission.is_serving and not admission.process.is_frozen:
            admission.stop()

    def _frozen(self) -> None:
        """SIGSTOP of admission while another takes over: it goes on later and must find out that it rules no more."""
        admission = self._admission()
        if admission is not None and len(self._world.admissions) == 1:
            self._world.tell(f"{admission.name} is frozen")
            admission.process.freeze()
            admission.was_frozen = True
            self._world.start_admission()
            self._world.after(self._random.random() * 20.0, self._unfreeze, admission)

    def _unfreeze(self, admission: Admission) -> None:
        if admission.process.is_alive and admission.process.is_frozen:
            self._world.tell(f"{admission.name} goes on")
            admission.process.go_on()

    # The machine.

    def _disk_full(self) -> None:
        seconds = self._random.choice((0.05, 1.0, 8.0, 20.0))
        self._world.tell(f"the disk is full for {seconds} s")
        self._world.disk.faults.full_until_s = self._world.loop.time() + seconds

    def _disk_locked(self) -> None:
        seconds = self._random.choice((0.05, 1.0, 8.0))
        self._world.tell(f"the database is locked for {seconds} s")
        self._world.disk.faults.locked_until_s = self._world.loop.time() + seconds

    def _disk_slow(self) -> None:
        self._world.longest_write_s = 1.5
        self._world.disk.faults.longest_s = 1.5
        self._world.tell("the disk is slow")
        self._world.after(self._random.random() * 10.0, self._disk_quick)

    def _disk_quick(self) -> None:
        self._world.disk.faults.longest_s = self._world.plan.longest_write_s

    def _clock_jump(self) -> None:
        seconds = self._random.choice((-3600.0, -40.0, 40.0, 3600.0, 86_400.0))
        self._world.tell(f"the wall clock jumps by {seconds} s")
        self._world.utc_off_s += seconds
        for admission in self._world.admissions:
            admission.clock.utc_off_s = self._world.utc_off_s

    def _network_slow(self) -> None:
        self._world.network.longest_s = 3.0
        self._world.tell("the network is slow")
        self._world.after(self._random.random() * 15.0, self._network_quick)

    def _network_quick(self) -> None:
        self._world.network.longest_s = self._world.plan.longest_delay_s

    # Operators.

    def _drain(self) -> None:
        front = self._world.front()
        if front is not None and self._world.lanes:
            identity, drained = self._random.choice(list(self._world.lanes)), self._random.random() < 0.6
            self._world.tell(f"an operator {'drains' if drained else 'resumes'} {identity.lane_id}")
            self._operate(front, partial(front.engine.drain_lane, identity.lane_id, drained=drained))

    def _fallback(self) -> None:
        if front := self._world.front():
            model, enabled = self._model(), self._random.random() < 0.6
            self._world.tell(f"an operator turns the fallback of {model} {'on' if enabled else 'off'}")
            self._operate(front, partial(front.engine.set_fallback, model, enabled=enabled))

    def _quota(self) -> None:
        if front := self._world.front():
            model, denied_for_s = self._model(), self._random.choice((None, 5.0, 60.0))
            self._world.tell(f"the quota of {model} is {'granted' if denied_for_s is None else f'denied for {denied_for_s} s'}")
            self._operate(front, partial(front.engine.report_capacity, model, denied_for_s=denied_for_s, reason="no more GPUs"))

    def _model(self) -> Model:
        return self._random.choice((ANISORA, PHR00T))

    def _operate(self, front: Admission, call: Callable[[], Coroutine[object, object, object]]) -> None:
        front.spawn(_tolerant(call), "operate")


async def _tolerant(call: Callable[[], Coroutine[object, object, object]]) -> None:
    try:
        await call()
    except (UnknownLaneError, NotYetStoredError, StoreUnavailableError):
        # An answer like any other; what was decided shows on disk.
        return
