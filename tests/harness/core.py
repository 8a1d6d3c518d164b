"""Drives the pure core with plain values: a world of lanes that one can make report, and the invariants checked after every event."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from admission.core.commands import (
    Command,
    ForgetLane,
    PersistLane,
    PersistLearned,
    PersistPolicy,
    PersistTask,
    Record,
    Refusal,
    ReplyAccepted,
    ReplyOverloaded,
    ReplyRefused,
    SendWish,
)
from admission.core.events import (
    AcceptancesNotStored,
    CallerLeft,
    CancelRequested,
    CoreEvent,
    LaneDetached,
    LaneReported,
    TaskSubmitted,
    TimePassed,
)
from admission.core.fit import FitRules
from admission.core.lanes import KnownLane, LaneSpec, Lease, ModelPolicy, Outcome, Report, Wish, Work
from admission.core.learned import Learned, Place
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.tasks import TERMINAL, Event, Failure, LaneId, LaneMode, MemoryRecord, Model, Result, Stage, Task, TaskId, TaskState
from admission.core.time import Now
from runtime.fit.cost import WorkerMemory
from tests.harness.memory import parameters, tokens_of

ANISORA, PHR00T = Model("anisora"), Model("phr00t")
START = datetime(2026, 1, 1, tzinfo=UTC)
RESULT = Result(
    video_key="results/t/1/video.mp4",
    media_type="video/mp4",
    size_bytes=10,
    sha256="00" * 32,
    preview_key="results/t/1/preview.jpg",
    width=64,
    height=64,
    num_frames=9,
    fps=16,
)
DONE = Outcome(result=RESULT, memory=MemoryRecord(figures={"device": "cpu"}), render_s=10.0)


def named_for(outcome: Outcome, task_id: TaskId, attempt: int) -> Outcome:
    """The outcome with a result, if it has one, under the attempt's own key: so a commit shows whose it is."""
    if outcome.result is None:
        return outcome
    return replace(outcome, result=replace(outcome.result, video_key=f"results/{task_id}/{attempt}/video.mp4"))


def failed(failure: Failure) -> Outcome:
    """An attempt that ended without a result."""
    return Outcome(failure=failure, memory=MemoryRecord(figures={"device": "cpu"}))


class World:
    """A core, a clock and what was told to everyone. Every event is followed by a check of the invariants."""

    def __init__(self, limits: Limits | None = None, fit_rules: FitRules | None = None) -> None:
        """Empty, at START."""
        self.elapsed_s = 0.0
        self.fit_rules = fit_rules
        self.core = QueueState(limits or Limits(), [ANISORA, PHR00T], self.now(), fit_rules)
        self.refused: dict[TaskId, Refusal] = {}
        self.learned: dict[Place, Learned] = {}
        self.stored: dict[TaskId, Task] = {}
        self.accepted: list[TaskId] = []
        self.overloaded: dict[TaskId, ReplyOverloaded] = {}
        self.wishes: dict[LaneId, Wish] = {}
        self.events: list[tuple[str, str]] = []
        self.commits: list[tuple[TaskId, int]] = []
        self.kept: list[Event] = []
        self.lanes: dict[LaneId, KnownLane] = {}
        self.policies: dict[Model, ModelPolicy] = {}
        self.recorded: set[tuple[TaskId | None, int]] = set()
        self.finishing: dict[LaneId, Work] = {}
        self._submitted = 0
        self._sessions = 0
        self._session_of: dict[LaneId, int] = {}

    def now(self) -> Now:
        """The time."""
        return Now(monotonic_s=1000.0 + self.elapsed_s, utc=START + timedelta(seconds=self.elapsed_s))

    def handle(self, event: CoreEvent) -> list[Command]:
        """One event, its commands taken in, the invariants checked."""
        commands = self.core.handle(event, self.now())
        for command in commands:
            self._take(command)
        self.check()
        return commands

    def advance(self, seconds: float) -> None:
        """Lets time pass, with a TimePassed at every moment at which something is due."""
        end = self.elapsed_s + seconds
        while (due := self.core.next_due_s()) is not None and due - 1000.0 <= end:
            self.elapsed_s = max(self.elapsed_s, due - 1000.0)
            self.handle(TimePassed())
        self.elapsed_s = end

    def submit(
        self, model: Model = ANISORA, owner: str = "owner", waited_s: float = 0.0, size: tuple[int, int, int] | None = None
    ) -> TaskId:
        """A new request; without width, height and frames it fits everywhere and is of 1000 tokens."""
        self._submitted += 1
        task_id = TaskId(f"task-{self._submitted}")
        now = self.now()
        self.handle(
            TaskSubmitted(
                task=Task(
                    task_id=task_id,
                    owner=owner,
                    model=model,
                    mode="t2v",
                    parameters={} if size is None else parameters(*size),
                    tokens=1000 if size is None else tokens_of(parameters(*size)),
                    state=TaskState.HELD,
                    created_at=now.utc,
                    updated_at=now.utc,
                ),
                waited_s=waited_s,
            )
        )
        return task_id

    def cancel(self, task_id: TaskId) -> None:
        """Someone cancels."""
        self.handle(CancelRequested(task_id=task_id))

    def leave(self, task_id: TaskId) -> None:
        """The caller hangs up."""
        self.handle(CallerLeft(task_id=task_id))

    def attach(
        self,
        lane_id: str,
        *models: Model,
        pool: bool = False,
        boot: str = "boot-1",
        work: Work | None = None,
        memory: WorkerMemory | None = None,
        forgets: bool = False,
    ) -> LaneId:
        """A warm lane opens a new stream and reports; one that forgets finishes nothing any more."""
        lane = LaneId(lane_id)
        if forgets:
            self.finishing.pop(lane, None)
        self._sessions += 1
        self._session_of[lane] = self._sessions
        mode = LaneMode.DEGRADED_SHARED if pool else LaneMode.DEDICATED
        report = Report(
            spec=LaneSpec(lane_id=lane, mode=mode, models=models, memory=memory),
            boot_id=boot,
            session=self._sessions,
            seen_sequence=0,
            warm=True,
            healthy=True,
            draining=False,
            resident_model=models[0],
            work=work,
            finishing=self.finishing.get(lane),
        )
        self.handle(LaneReported(report=report))
        return lane

    def report(self, lane: LaneId, *, work: Work | None = None, seen: int | None = None, **changes: object) -> None:
        """The lane reports again; by default it has seen the newest wish. It tells of what it finishes by itself."""
        last = self.core.state.lanes[lane].report
        assert last is not None
        sequence = self.wishes[lane].sequence if seen is None else seen
        told = {"work": work, "finishing": self.finishing.get(lane)} | changes
        report = replace(last, session=self._session_of[lane], seen_sequence=sequence, **told)  # type: ignore[arg-type]
        self.handle(LaneReported(report=report))

    def detach(self, lane: LaneId) -> None:
        """The lane's stream ends."""
        self.handle(LaneDetached(lane_id=lane, session=self._session_of[lane]))

    def refuse_acceptances(self, *task_ids: TaskId) -> None:
        """The store took none of these acceptances, which nobody was told yet."""
        for task_id in task_ids:
            del self.stored[task_id]
            self.accepted.remove(task_id)
        commands = self.core.handle(AcceptancesNotStored(task_ids=frozenset(task_ids)), self.now())
        for command in commands:
            # The journal drops what speaks of tasks that never were.
            if not (isinstance(command, PersistTask) and command.task.task_id in task_ids):
                self._take(command)
        self.check()

    def restart(self, lanes: Iterable[LaneSpec]) -> None:
        """Admission dies and starts again on what is stored; wishes that were not followed are forgotten with it."""
        limits = self.core.state.limits
        unfinished = sorted(
            (task for task in self.stored.values() if task.state not in TERMINAL or task.is_withdrawn), key=lambda task: task.created_at
        )
        self.core = QueueState(limits, [ANISORA, PHR00T], self.now(), self.fit_rules)
        self.wishes = {}
        known = [self.lanes.get(spec.lane_id, KnownLane(spec=spec)) for spec in lanes]
        for command in self.core.restore(unfinished, known, self.now(), self.policies.values(), self.learned.values()):
            self._take(command)
        self.check()

    def lease(self, lane: LaneId) -> Lease | None:
        """What the lane was last told to work on."""
        return self.wishes[lane].lease

    def works(self, lane: LaneId, progress: int = 10) -> None:
        """The lane works on its lease and says so."""
        lease = self.lease(lane)
        assert lease is not None
        self.report(lane, work=Work(task_id=lease.task_id, attempt=lease.attempt, stage=Stage.INFERENCE, progress=progress))

    def frees_gpu(self, lane: LaneId) -> None:
        """The lane's lease needs its GPU no more; if the wish says so, it is finished beside what the lane gets next."""
        lease = self.lease(lane)
        assert lease is not None
        work = Work(task_id=lease.task_id, attempt=lease.attempt, stage=Stage.ENCODING, progress=90, gpu_free=True)
        self.report(lane, work=work)
        if self.wishes[lane].finishing == lease:
            self.finishing[lane] = work

    def has_finished(self, lane: LaneId, outcome: Outcome = DONE, work: Work | None = None) -> None:
        """The lane says how what it finishes ended, beside this work, and sees the acknowledgement."""
        of = self.finishing.pop(lane)
        ended = replace(of, outcome=named_for(outcome, of.task_id, of.attempt))
        self.report(lane, work=work, finishing=ended)

    def ends(self, lane: LaneId, outcome: Outcome = DONE) -> None:
        """The lane says how its lease ended, sees the acknowledgement and forgets it; a next lease is left for the test to start."""
        lease = self.lease(lane)
        assert lease is not None
        self.says_ended(lane, lease.task_id, lease.attempt, outcome)
        if self.lease(lane) is None:
            self.report(lane)

    def says_ended(self, lane: LaneId, task_id: TaskId, attempt: int, outcome: Outcome = DONE) -> None:
        """The lane reports the end of any attempt, its own or not."""
        ended = named_for(outcome, task_id, attempt)
        self.report(lane, work=Work(task_id=task_id, attempt=attempt, stage=Stage.ENCODING, progress=99, outcome=ended))

    def task(self, task_id: TaskId) -> Task:
        """The task as stored last."""
        return self.stored[task_id]

    def check(self) -> None:
        """The invariants of the design that the core answers for."""
        state = self.core.state
        assert state.degraded_depth <= state.limits.degraded_depth
        assert len(state.rescued) <= state.limits.rescued_depth
        assert all(self.now().monotonic_s - since_s < state.limits.degraded_wait_s for since_s in state.held.values())
        leases = [(lease.task_id, lease.attempt) for lane in state.lanes.values() for lease in lane.leases]
        assert len({task_id for task_id, _ in leases}) == len(leases), "a task has at most one live lease"
        for task_id, attempt in leases:
            task = state.tasks[task_id]
            assert (task.state, task.attempt) == (TaskState.LEASED, attempt)
        queued = [task_id for queue in state.queues.values() for task_id in queue]
        assert len(queued) == sum(len(queue) for queue in state.queues.values()) == len(set(queued))
        for task in state.tasks.values():
            places = (task.task_id in state.held) + (task.task_id in queued) + (task.task_id in dict(leases))
            assert places == 1, f"{task.task_id} is in {places} places"
            assert task.state not in TERMINAL
        assert set(state.rescued) <= set(queued)
        assert {task_id for of_model in state.held_by_model.values() for task_id in of_model} == set(state.held)
        assert list(state.held.values()) == sorted(state.held.values()), "held requests stand in the order of their waits"
        for model, backlog in state.backlogs.items():
            tasks = [task for task in state.tasks.values() if task.model == model]
            assert backlog.running == sum(task.state is TaskState.LEASED for task in tasks)
            left = {TaskState.QUEUED: lambda task: task.tokens * 100, TaskState.LEASED: lambda task: task.tokens * (100 - task.progress)}
            assert backlog.work == sum(left[task.state](task) for task in tasks if task.state in left)
        assert set(state.not_served_at_s) == set(queued)
        assert set(state.unfit_since_s) <= set(queued)
        lost = [task_id for task_id, task in self.stored.items() if task.state not in TERMINAL and task_id not in state.tasks]
        assert not lost, "an accepted task is never lost"

    def _take(self, command: Command) -> None:
        match command:
            case PersistTask(task=task):
                self._store(task)
            case ReplyAccepted(task=task):
                assert task.task_id in self.stored, "persist before reply"
                assert task.task_id not in self.accepted, "one answer"
                self.accepted.append(task.task_id)
            case ReplyOverloaded(task_id=task_id):
                assert task_id not in self.overloaded, "one answer"
                self.overloaded[task_id] = command
            case ReplyRefused(task_id=task_id, refusal=refusal):
                assert task_id not in self.refused, "one answer"
                assert task_id not in self.core.state.tasks, "nothing of it is kept"
                self.refused[task_id] = refusal
            case PersistLearned(learned=learned):
                self.learned[learned.place] = learned
            case Record(event=event):
                self.events.append((event.event_type, event.reason))
                self.kept.append(event)
                if event.event_type == "memory_record":
                    named = (event.task_id, event.attempt)
                    assert named not in self.recorded, f"two memory records of {named}"
                    self.recorded.add(named)
            case PersistLane(lane=lane):
                self.lanes[lane.spec.lane_id] = lane
            case ForgetLane(lane_id=lane_id):
                del self.lanes[lane_id]
            case PersistPolicy(policy=policy):
                self.policies[policy.model] = policy
            case SendWish(lane_id=lane_id, wish=wish):
                self.wishes[lane_id] = wish
            case _:
                pass

    def _store(self, task: Task) -> None:
        before = self.stored.get(task.task_id)
        ended = before is not None and before.state in TERMINAL
        assert not ended or before == replace(task, is_withdrawn=True), "terminal states do not change"
        if task.state is TaskState.DONE:
            assert task.result is not None
            assert task.result.video_key == f"results/{task.task_id}/{task.attempt}/video.mp4", (
                "only the current attempt's result is committed"
            )
            self.commits.append((task.task_id, task.attempt))
        self.stored[task.task_id] = task
