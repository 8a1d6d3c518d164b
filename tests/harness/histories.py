"""One seeded random history of callers, lanes, time and restarts over the pure core; World checks the invariants after every event."""

from __future__ import annotations

import random

from admission.core.lanes import LaneSpec, Work
from admission.core.tasks import TERMINAL, Failure, FailureCode, LaneId, LaneMode, Model, Stage, TaskId
from tests.harness.core import ANISORA, DONE, PHR00T, World, failed, named_for

_LANES: dict[str, tuple[Model, ...]] = {
    "lane-anisora": (ANISORA,),
    "lane-anisora-2": (ANISORA,),
    "lane-phr00t": (PHR00T,),
    "pool": (ANISORA, PHR00T),
}
_OUTCOMES = (
    DONE,
    DONE,
    failed(Failure(code=FailureCode.RENDER_FAILED, message="it failed")),
    failed(Failure(code=FailureCode.LANE_LOST, message="died")),
)


class History:
    """Runs `steps` random events. `story` tells what was done, one line each, for a failed seed."""

    def __init__(self, seed: int, steps: int = 120) -> None:
        """The same seed is the same history."""
        self.random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.steps = steps
        self.world = World()
        self.story: list[str] = []
        self._boots: dict[str, int] = {}
        self._said: dict[LaneId, Work | None] = {}

    def run(self) -> None:
        """Raises AssertionError when an invariant breaks, or when something accepted has not ended two hours later."""
        for _ in range(self.steps):
            (step,) = self.random.choices(
                [
                    *(self._submit, self._attach, self._follow, self._free, self._finish),
                    *(self._cross, self._zombie, self._cancel, self._leave, self._wait, self._restart),
                ],
                weights=[6, 2, 12, 4, 3, 2, 2, 1, 1, 4, 0.3],
            )
            step()
        self._tell("all fall silent for two hours")
        self.world.advance(7200.0)
        assert all(task.state in TERMINAL for task in self.world.stored.values()), "an accepted task never ended"
        assert not self.world.core.state.held, "a request is held for ever"
        committed = [task_id for task_id, _ in self.world.commits]
        assert len(committed) == len(set(committed)), "a task has two results"

    def _tell(self, line: str) -> None:
        self.story.append(f"{self.world.elapsed_s:9.3f} s  {line}")

    def _submit(self) -> None:
        model, owner, count = self.random.choice([ANISORA, PHR00T]), self.random.choice("abc"), self.random.choice([1, 1, 1, 4, 12])
        self._tell(f"{owner} asks {count} times for {model}")
        before = len(self.world.accepted)
        for _ in range(count):
            self.world.submit(model, owner)
        fresh = self.world.accepted[before:]
        if fresh and self.random.random() < 0.1:
            self._tell(f"the store takes none of {fresh}")
            self.world.refuse_acceptances(*fresh)

    def _attach(self) -> None:
        name = self.random.choice(list(_LANES))
        reboots = self.random.random() < 0.4
        if reboots:
            self._boots[name] = self._boots.get(name, 0) + 1
            self._said[LaneId(name)] = None
        boot = f"boot-{self._boots.get(name, 0)}"
        self._tell(f"{name} ({boot}) opens a stream, in work: {self._said.get(LaneId(name))}")
        self.world.attach(name, *_LANES[name], pool=name == "pool", boot=boot, work=self._said.get(LaneId(name)), forgets=reboots)

    def _lane(self) -> LaneId | None:
        known = sorted(
            lane for lane in self.world.wishes if lane in self.world.core.state.lanes and self.world.core.state.lanes[lane].report
        )
        return self.random.choice(known) if known else None

    def _follow(self) -> None:
        """A lane sees its newest wish and does the next thing about it."""
        lane = self._lane()
        if lane is None:
            return
        wish, said = self.world.wishes[lane], self._said.get(lane)
        work: Work | None = None
        if wish.lease is not None:
            mine = said is not None and (said.task_id, said.attempt) == (wish.lease.task_id, wish.lease.attempt)
            progress = said.progress if said is not None and mine else 0
            outcome = self.random.choice([None, None, *_OUTCOMES])
            named = None if outcome is None else named_for(outcome, wish.lease.task_id, wish.lease.attempt)
            work = Work(task_id=wish.lease.task_id, attempt=wish.lease.attempt, stage=Stage.INFERENCE, progress=progress, outcome=named)
        elif said is not None and said.outcome is None:
            stopped = failed(Failure(code=FailureCode.CANCELLED, message="stopped"))
            work = Work(task_id=said.task_id, attempt=said.attempt, stage=Stage.INFERENCE, progress=said.progress, outcome=stopped)
        self._said[lane] = work
        self._tell(f"{lane} follows its wish: {work}")
        self.world.report(lane, work=work)

    def _free(self) -> None:
        """A lane needs its GPU no more for what it renders."""
        lane = self._lane()
        said = None if lane is None else self._said.get(lane)
        if lane is None or said is None or said.outcome is not None or said.lease != self.world.lease(lane) or lane in self.world.finishing:
            return
        self._tell(f"{lane} has its GPU free of {said.task_id} attempt {said.attempt}")
        self.world.frees_gpu(lane)
        if lane in self.world.finishing:
            self._said[lane] = None

    def _finish(self) -> None:
        """A lane ends what it finished beside its render."""
        lane = self._lane()
        if lane is not None and lane in self.world.finishing:
            outcome = self.random.choice(_OUTCOMES)
            self._tell(f"{lane} ends {self.world.finishing[lane]}: {outcome}")
            self.world.has_finished(lane, outcome, self._said.get(lane))

    def _cross(self) -> None:
        """A report that crossed with a wish."""
        lane = self._lane()
        if lane is not None:
            self._tell(f"{lane} repeats itself, not having seen the newest wish")
            self.world.report(lane, work=self._said.get(lane), seen=max(0, self.world.wishes[lane].sequence - 1))

    def _zombie(self) -> None:
        """A lane tells of the end of an attempt that is not its lease."""
        lane = self._lane()
        if lane is None or not self.world.accepted:
            return
        task_id, attempt = self.random.choice(self.world.accepted), self.random.randint(1, 3)
        lease = self.world.lease(lane)
        if lease is None or (lease.task_id, lease.attempt) != (task_id, attempt):
            self._tell(f"{lane} tells of a result of {task_id} attempt {attempt}")
            self.world.says_ended(lane, task_id, attempt)

    def _cancel(self) -> None:
        if self.world.accepted:
            task_id = self.random.choice(self.world.accepted)
            self._tell(f"{task_id} is cancelled")
            self.world.cancel(task_id)

    def _leave(self) -> None:
        held: list[TaskId] = sorted(self.world.core.state.held)
        if held:
            task_id = self.random.choice(held)
            self._tell(f"the caller of {task_id} leaves")
            self.world.leave(task_id)

    def _wait(self) -> None:
        seconds = self.random.choice([0.5, 2.0, 5.0, 10.0, 29.999, 30.0, 61.0])
        self._tell(f"{seconds} s pass")
        self.world.advance(seconds)

    def _restart(self) -> None:
        """Admission dies and starts again: memory is gone, the store stays; held callers are gone with it."""
        self._tell("admission restarts")
        specs = [
            LaneSpec(lane_id=LaneId(name), mode=LaneMode.DEGRADED_SHARED if name == "pool" else LaneMode.DEDICATED, models=models)
            for name, models in _LANES.items()
        ]
        self.world.restart(specs)
