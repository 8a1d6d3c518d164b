"""Simulated admission processes: the real engine on the model store, served by doors as small as the real ones allow."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, cast

from admission.core.commands import Command
from admission.core.events import CoreEvent
from admission.core.time import Now
from admission.engine import Engine
from admission.store.port import StaleEpochError, StoreUnavailableError
from runtime.clock import Reading
from tests.simulation.disk import ModelStore
from tests.simulation.fitting import FIT_RULES
from tests.simulation.invariants import CoreWatch
from tests.simulation.loop import Loop, Process, in_ticks

if TYPE_CHECKING:
    from tests.simulation.stream import Stream
    from tests.simulation.world import World

_START = datetime(2026, 1, 1, tzinfo=UTC)


class ProcessClock:
    """A process's clocks: monotonic time from a base of its own, UTC as its machine believes."""

    def __init__(self, loop: Loop, base_s: float) -> None:
        self.utc_off_s = 0.0
        self._loop = loop
        self._base_s = base_s

    def now(self) -> Reading:
        elapsed_s = self._loop.time()
        return Reading(monotonic_s=self._base_s + elapsed_s, utc=_START + timedelta(seconds=elapsed_s + self.utc_off_s))


class Admission:
    """One admission process from its start to its death."""

    def __init__(self, world: World, number: int, random: Random) -> None:
        self.name = f"admission-{number}"
        self.process = Process(world.loop, self.name)
        self.process.on_death = self._died
        self.is_serving = False
        self.was_frozen = False
        self.streams: list[Stream] = []
        self.calls: dict[asyncio.Task[Any], object] = {}
        self.clock = ProcessClock(world.loop, in_ticks(random.random() * 1e6))
        self.clock.utc_off_s = world.utc_off_s
        self._world = world
        self._store = ModelStore(world.disk, world.loop, self.process, random)
        self.engine: Engine = self.process.call(self._build)
        world.tell(f"{self.name} starts")
        self.process.spawn(self._serve(), self.name)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A call that this process serves."""
        task = self.process.spawn(coroutine, name)
        self.calls[task] = None
        task.add_done_callback(lambda done: self.calls.pop(done, None))
        return task

    def crash(self) -> None:
        """kill -9."""
        self._world.tell(f"{self.name} is killed")
        self.process.die()

    def stop(self) -> None:
        """SIGTERM."""
        self._world.tell(f"{self.name} is told to stop")
        self.process.spawn(self._take_down(), f"{self.name}-stop")

    def _build(self) -> Engine:
        # The objects stand in for an object store at the one place where the engine removes files.
        return Engine(
            store=self._store,
            clock=self.clock,
            objects=cast("Any", self._world.objects),
            limits=self._world.limits,
            fit_rules=FIT_RULES,
            new_id=self._world.new_id,
        )

    async def _serve(self) -> None:
        try:
            await self.engine.start()
            epoch = self.engine.snapshot().controller_epoch
            self._watch_core(epoch)
            self._check_restored()
            self.is_serving = True
            self._world.tell(f"{self.name} serves, epoch {epoch}")
            await self.engine.wait_failed()
        except StaleEpochError:
            self._world.tell(f"{self.name} was replaced")
        except StoreUnavailableError as error:
            self._world.tell(f"{self.name} ends: {error}")
        except Exception as error:
            self._world.checker.expect(False, f"{self.name} failed: {error!r}")
        await self._take_down()

    async def _take_down(self) -> None:
        self.is_serving = False
        for call in list(self.calls):
            call.cancel()
        self._world.end_calls(self)
        await self.engine.stop()
        self._world.tell(f"{self.name} has stopped")
        self.process.die()

    def _watch_core(self, epoch: int) -> None:
        """Every decision passes by the checker."""
        core = self.engine._core
        watch = CoreWatch(self._world.checker, core.state, epoch)
        decide = core.handle

        def handle(event: CoreEvent, now: Now) -> list[Command]:
            commands = decide(event, now)
            self._world.trace(f"{type(event).__name__}>{''.join(type(command).__name__[:4] for command in commands)}")
            watch.decided(event, commands, now)
            return commands

        core.handle = handle  # type: ignore[method-assign]

    def _check_restored(self) -> None:
        """What operators said is in force again."""
        state, disk = self.engine._core.state, self._world.disk
        for lane_id, known in disk.lanes.items():
            lane = state.lanes.get(lane_id)
            same = lane is not None and lane.is_drained is known.is_drained
            knows = lane is not None and (lane.spec, lane.retired) == (known.spec, known.retired)
            self._world.checker.expect(knows, f"{self.name} forgot what {lane_id} has")
            self._world.checker.expect(same, f"{self.name} forgot that {lane_id} is {'drained' if known.is_drained else 'not drained'}")
        for model, policy in disk.policies.items():
            manual = state.policy(model).is_fallback_manual
            self._world.checker.expect(manual is policy.is_fallback_manual, f"{self.name} forgot what was said about {model}")

        for place, learned in disk.learned.items():
            same = dict(state.fits.excesses(place)) == dict(learned.excesses) and state.times.rate(place) == learned.rate
            self._world.checker.expect(same, f"{self.name} forgot what was learned about {place}")

    def _died(self) -> None:
        self.is_serving = False
        for stream in list(self.streams):
            stream.cut(0.0, self._world.network.death_s())
        self.streams.clear()
        self._world.admission_died(self)
