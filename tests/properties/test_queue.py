"""Random histories of callers, lanes and time: the invariants hold after every event, and every accepted task ends."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from admission.core.lanes import Work
from admission.core.tasks import TERMINAL, Failure, FailureCode, LaneId, Stage, TaskState
from tests.harness.core import ANISORA, DONE, PHR00T, World, failed, named_for

_LANES = {"lane-anisora": (ANISORA,), "lane-anisora-2": (ANISORA,), "lane-phr00t": (PHR00T,), "pool": (ANISORA, PHR00T)}
_FAILURE = failed(Failure(code=FailureCode.RENDER_FAILED, message="it failed"))


class Histories(RuleBasedStateMachine):
    """World checks the invariants after every event; the rules only make things happen.

    Reports may be stale, repeated or of dead attempts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.boots: dict[str, int] = {}
        self.said: dict[LaneId, Work | None] = {}

    @initialize(names=st.sets(st.sampled_from(sorted(_LANES))))
    def some_lanes_are_there(self, names: set[str]) -> None:
        for name in sorted(names):
            self.attach(name, reboots=False)

    @rule(model=st.sampled_from([ANISORA, PHR00T]), owner=st.sampled_from("abc"), times=st.integers(1, 9))
    def submit(self, model: object, owner: str, times: int) -> None:
        for _ in range(times):
            self.world.submit(model, owner)  # type: ignore[arg-type]

    @rule(name=st.sampled_from(sorted(_LANES)), reboots=st.booleans())
    def attach(self, name: str, reboots: bool) -> None:
        lane = LaneId(name)
        if reboots:
            self.boots[name] = self.boots.get(name, 0) + 1
            self.said[lane] = None
        boot, said = f"boot-{self.boots.get(name, 0)}", self.said.get(lane)
        self.world.attach(name, *_LANES[name], pool=name == "pool", boot=boot, work=said, forgets=reboots)

    @rule(data=st.data())
    @precondition(lambda self: self.world.wishes)
    def lane_follows(self, data: st.DataObject) -> None:
        """The lane sees its newest wish and does the next thing about it."""
        lane = data.draw(st.sampled_from(sorted(self.world.wishes)))
        wish, said = self.world.wishes[lane], self.said.get(lane)
        if wish.lease is None:
            ended = None
            if said is not None and said.outcome is None:
                ended = Work(task_id=said.task_id, attempt=said.attempt, stage=Stage.INFERENCE, progress=99, outcome=_FAILURE)
            self._say(lane, ended)
            return
        mine = said is not None and (said.task_id, said.attempt) == (wish.lease.task_id, wish.lease.attempt)
        progress = said.progress if said is not None and mine else 0
        outcome = data.draw(st.sampled_from([None, None, DONE, _FAILURE]))
        said_end = None if outcome is None else named_for(outcome, wish.lease.task_id, wish.lease.attempt)
        self._say(
            lane,
            Work(task_id=wish.lease.task_id, attempt=wish.lease.attempt, stage=Stage.INFERENCE, progress=progress, outcome=said_end),
        )

    @rule(data=st.data())
    @precondition(lambda self: self._rendering())
    def gpu_becomes_free(self, data: st.DataObject) -> None:
        """The lane may have another one that it finishes; then this one keeps its place."""
        lane = data.draw(st.sampled_from(self._rendering()))
        self.world.frees_gpu(lane)
        if lane in self.world.finishing:
            self.said[lane] = None

    @rule(data=st.data())
    @precondition(lambda self: self.world.finishing)
    def lane_has_finished(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.world.finishing)))
        if lane in self.world.wishes:
            self.world.has_finished(lane, data.draw(st.sampled_from([DONE, _FAILURE])), self.said.get(lane))

    @rule(data=st.data())
    @precondition(lambda self: self.world.wishes and self.world.accepted)
    def zombie_speaks(self, data: st.DataObject) -> None:
        """A lane tells of the end of an attempt that may be anyone's, or nobody's any more."""
        lane = data.draw(st.sampled_from(sorted(self.world.wishes)))
        task_id = data.draw(st.sampled_from(self.world.accepted))
        lease = self.world.wishes[lane].lease
        if lease is not None and data.draw(st.booleans()):
            task_id = lease.task_id
        attempt = data.draw(st.integers(1, 3))
        if lease is None or (lease.task_id, lease.attempt) != (task_id, attempt):
            self.world.says_ended(lane, task_id, attempt)

    @rule(data=st.data())
    @precondition(lambda self: self.world.wishes)
    def lane_repeats_itself(self, data: st.DataObject) -> None:
        """A report that crossed with a wish: it says what the lane last said, having seen less."""
        lane = data.draw(st.sampled_from(sorted(self.world.wishes)))
        self.world.report(lane, work=self.said.get(lane), seen=max(0, self.world.wishes[lane].sequence - 1))

    @rule(data=st.data())
    @precondition(lambda self: self.world.accepted)
    def cancel(self, data: st.DataObject) -> None:
        self.world.cancel(data.draw(st.sampled_from(self.world.accepted)))

    @rule(data=st.data())
    @precondition(lambda self: self.world.core.state.held)
    def leave(self, data: st.DataObject) -> None:
        self.world.leave(data.draw(st.sampled_from(sorted(self.world.core.state.held))))

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 29.999, 30.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    def teardown(self) -> None:
        """Left alone for two hours every accepted task has ended, every held request has been answered."""
        self.world.advance(7200.0)
        assert all(task.state in TERMINAL for task in self.world.stored.values())
        assert not self.world.core.state.held
        assert len(self.world.commits) == len({task_id for task_id, _ in self.world.commits}), "no task has two results"
        done = {task_id for task_id, task in self.world.stored.items() if task.state is TaskState.DONE}
        assert done == {task_id for task_id, _ in self.world.commits}

    def _rendering(self) -> list[LaneId]:
        """Lanes that say that they work on their lease."""
        leases = {lane: wish.lease for lane, wish in sorted(self.world.wishes.items()) if wish.lease is not None}
        said = {lane: work for lane, work in self.said.items() if work is not None and work.outcome is None}
        return [lane for lane, lease in leases.items() if lane in said and said[lane].lease == lease and lane not in self.world.finishing]

    def _say(self, lane: LaneId, work: Work | None) -> None:
        self.said[lane] = work
        if lane in self.world.core.state.lanes:
            self.world.report(lane, work=work)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
