"""Everything the core remembers, and the turn in which one event changes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from admission.core.commands import Command, OverloadCause, PersistTask, Record
from admission.core.deadlines import Deadlines, Due
from admission.core.fair_queue import FairQueue
from admission.core.fit import ANYHOW, Fit, FitRules, Fits, Group, ShapeKey
from admission.core.lanes import KnownLane, LaneSpec, Lease, ModelPolicy, Report, StartCause, Wish, Work
from admission.core.learned import Place
from admission.core.limits import Limits
from admission.core.refusals import Verdicts
from admission.core.render_times import RenderTimes
from admission.core.tasks import TERMINAL, Event, FallbackReason, LaneId, LaneMode, MemoryRecord, Model, Task, TaskId, TaskState
from admission.core.time import Now


@dataclass(slots=True, kw_only=True)
class Assignment:
    """An attempt that a lane has, from the giving of its lease to its end.

    Attributes:
        is_confirmed: the lane has said that it works on it. A lease that it never took up does not count as an execution.
        is_withdrawn: the lease was taken back while the lane may still work on it; its memory record is still to come.
        is_gpu_free: it was heard that it needs the GPU no more. A report of a newer stream that says otherwise was overtaken by that.
        given_s: monotonic time of the lease.
        render_deadline_s: how long the render may take; fixed when the lease is given, whatever is learned meanwhile.
        render_until_s: monotonic time at which admission gives the render up.
        waiting_since_s: since when it needs the GPU no more and waits because another attempt is being finished; None: it does not.
    """

    lease: Lease
    is_confirmed: bool = False
    is_withdrawn: bool = False
    is_gpu_free: bool = False
    given_s: float = 0.0
    render_deadline_s: float = 0.0
    render_until_s: float = 0.0
    waiting_since_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Lane:
    """What is known of one lane now.

    Attributes:
        session: number of its newest stream; 0 before the first since this start.
        attached: that stream is open.
        reported_at_s: monotonic time of its last report; None before the first since this start.
        rendering: what has its GPU, or shall have it; the lane gets nothing new before that has ended or was moved aside.
        finishing: an earlier attempt that goes on without the GPU: its files are written and stored.
        settled_sequence: wish that changed one of these; a report of a lane that had not seen it says nothing about what it does not name.
        acknowledged: the last two attempts whose ends are settled, newest last.
        lease_watched, contact_watched, absence_watched: a look at it is set, so that there is never more than one.
        render_look_s: monotonic time of the next look at render deadlines; None: none is set.
        past_boots: boots of this lane id that a newer one replaced, newest last.
        is_drained: an operator wants it to get no more work.
        booted_at_s: monotonic time at which its present process was first heard.
        is_ready: as last recorded.
        groups: how its models fit, by model; one that is missing fits anyhow. With `budget_bytes` made by `State.place`.
        retired: placements that its present boot must not use any more; `retired_boot` is that boot.
        out_of_memory: how often in a row each placement ran out of memory in this boot.
        drifts: bytes that stayed after its last attempts of this boot, by resident model, oldest first.
        failed_causes: why it could not become warm, as recorded since its present process was first heard or it was warm last.
    """

    spec: LaneSpec
    boot_id: str = ""
    session: int = 0
    attached: bool = False
    report: Report | None = None
    reported_at_s: float | None = None
    unhealthy_since_s: float | None = None
    rendering: Assignment | None = None
    finishing: Assignment | None = None
    lease_expires_at_s: float = 0.0
    lease_watched: bool = False
    contact_watched: bool = False
    absence_watched: bool = False
    render_look_s: float | None = None
    past_boots: tuple[str, ...] = ()
    is_drained: bool = False
    booted_at_s: float = 0.0
    acknowledged: tuple[Lease, ...] = ()
    wish: Wish = field(default_factory=lambda: Wish(sequence=0))
    settled_sequence: int = 0
    last_memory: MemoryRecord | None = None
    is_ready: bool = False
    groups: dict[Model, Group] = field(default_factory=dict)
    budget_bytes: int = 0
    retired: tuple[tuple[Model, str], ...] = ()
    retired_boot: str = ""
    out_of_memory: dict[tuple[Model, str], int] = field(default_factory=dict)
    drifts: dict[Model, tuple[int, ...]] = field(default_factory=dict)
    failed_causes: frozenset[StartCause] = frozenset()

    @property
    def is_pool(self) -> bool:
        """It serves the degraded queue."""
        return self.spec.mode is LaneMode.DEGRADED_SHARED

    @property
    def known(self) -> KnownLane:
        """What is kept of it."""
        return KnownLane(spec=self.spec, is_drained=self.is_drained, retired=self.retired, retired_boot=self.retired_boot)

    @property
    def gpu(self) -> str:
        """Name of its GPU; empty while it has not said."""
        return "" if self.spec.memory is None else self.spec.memory.limits.gpu

    def fit(self, model: Model, key: ShapeKey | None) -> Fit | None:
        """How a request of this shape fits here; None: it does not."""
        group = self.groups.get(model)
        return ANYHOW if group is None else group.fit(key, self.budget_bytes)

    def place(self, model: Model, lease: Lease) -> Place | None:
        """Where a lease of it is rendered, for what was learned there; None while the placement is not known."""
        return Place(self.gpu, model, lease.placement) if lease.placement and self.gpu else None

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        """Every attempt that it has or shall have, what is rendered first."""
        if self.finishing is None:
            return () if self.rendering is None else (self.rendering,)
        return (self.finishing,) if self.rendering is None else (self.rendering, self.finishing)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Those that were not taken back."""
        return tuple(one.lease for one in self.assignments if not one.is_withdrawn)

    @property
    def lease(self) -> Lease | None:
        """What it shall render."""
        return None if self.rendering is None or self.rendering.is_withdrawn else self.rendering.lease

    def assignment(self, work: Work) -> Assignment | None:
        """The one that this speaks of; None: it is none of its own, or not any more."""
        for one in self.assignments:
            if work.is_of(one.lease):
                return one
        return None

    def has_acknowledged(self, work: Work) -> bool:
        """Whether the end of this attempt is settled."""
        # No lease is made for the question: it is asked at every report of a lane that ended something.
        for lease in self.acknowledged:  # noqa: SIM110 - without a generator
            if work.is_of(lease):
                return True
        return False

    def assignment_of(self, task_id: TaskId) -> Assignment | None:
        """The one of this task. It never has two."""
        return next((one for one in self.assignments if one.lease.task_id == task_id), None)

    def drop(self, assignment: Assignment) -> None:
        """The attempt is over."""
        if self.rendering is assignment:
            self.rendering = None
        else:
            self.finishing = None

    def exchange(self) -> None:
        """What stood for the one is the other."""
        self.rendering, self.finishing = self.finishing, self.rendering


@dataclass(slots=True, kw_only=True)
class Counters:
    """Counts since this start."""

    accepted: int = 0
    fallbacks: int = 0
    overloaded_depth: int = 0
    overloaded_wait: int = 0
    lanes_lost: int = 0


@dataclass(slots=True, kw_only=True)
class Backlog:
    """Work of one model that is accepted and not done, kept as sums so that a decision costs the same with many lanes as with few.

    Attributes:
        running: tasks with a lease.
        work: latent tokens times the percent still to do, over queued and running tasks.
    """

    running: int = 0
    work: int = 0

    def add(self, task: Task, sign: int) -> None:
        """Takes the task in (+1) or out (-1)."""
        if task.state is TaskState.LEASED:
            self.running += sign
            self.work += sign * task.tokens * (100 - task.progress)
        elif task.state is TaskState.QUEUED:
            self.work += sign * task.tokens * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """A time in which requests of a model go the degraded way."""

    reason: FallbackReason
    since: Now


@dataclass(slots=True, kw_only=True)
class State:
    """The core's memory. Only `admission.core` changes it, in a Turn.

    Attributes:
        tasks: every held, queued and leased task; terminal ones are gone. Changed by `put` and `drop` only.
        backlogs: sums over them, by model.
        queues: accepted tasks that wait, by model.
        withdrawn: ended tasks whose last attempt a lane may still work on.
        not_served_at_s: monotonic time at which a queued task fails unless it was started.
        held: monotonic time since when each held request waits, oldest first.
        held_by_model: the same requests, oldest first.
        rescued: queued tasks that are offered to the pool too, in the order in which it takes them.
        ready: lanes that serve, by model; the pool's are under None.
        idle: of those, the ones without work, longest idle first.
        unserved_since_s: since when a model has no ready lane of its own; absent while it has one.
        unfit_since_s: since when a queued task fits no ready lane of its model though there are some.
        rescue_watched: models at which a look is set.
        policies: what operators said, by model.
        quota_until_s: monotonic time until which a model's quota is denied.
        fallbacks: models whose requests go the degraded way, since the first that did.
        refusals: requests refused since the last record of it, by model and cause.
        fits: which placements what needs.
        verdicts: which shapes no lane can serve, as far as it was asked.
        times: how long renders take.
    """

    limits: Limits
    started_at_s: float
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    backlogs: dict[Model, Backlog] = field(default_factory=dict)
    queues: dict[Model, FairQueue] = field(default_factory=dict)
    withdrawn: dict[TaskId, Task] = field(default_factory=dict)
    not_served_at_s: dict[TaskId, float] = field(default_factory=dict)
    held: dict[TaskId, float] = field(default_factory=dict)
    held_by_model: dict[Model, dict[TaskId, None]] = field(default_factory=dict)
    rescued: dict[TaskId, None] = field(default_factory=dict)
    lanes: dict[LaneId, Lane] = field(default_factory=dict)
    ready: dict[Model | None, dict[LaneId, None]] = field(default_factory=dict)
    idle: dict[Model | None, dict[LaneId, None]] = field(default_factory=dict)
    unserved_since_s: dict[Model, float] = field(default_factory=dict)
    unfit_since_s: dict[TaskId, float] = field(default_factory=dict)
    rescue_watched: set[Model] = field(default_factory=set)
    policies: dict[Model, ModelPolicy] = field(default_factory=dict)
    quota_until_s: dict[Model, float] = field(default_factory=dict)
    fallbacks: dict[Model, Fallback] = field(default_factory=dict)
    refusals: dict[tuple[Model, OverloadCause], int] = field(default_factory=dict)
    deadlines: Deadlines = field(default_factory=Deadlines)
    fits: Fits = field(default_factory=lambda: Fits(FitRules()))
    verdicts: Verdicts = field(default_factory=Verdicts)
    times: RenderTimes = field(default_factory=RenderTimes)
    counters: Counters = field(default_factory=Counters)

    @property
    def degraded_depth(self) -> int:
        """Places taken in the degraded queue."""
        return len(self.held) + len(self.rescued)

    def put(self, task: Task) -> None:
        """Remembers the task as it stands now."""
        before = self.tasks.get(task.task_id)
        backlog = self.backlogs[task.model]
        if before is not None:
            backlog.add(before, -1)
        backlog.add(task, +1)
        self.tasks[task.task_id] = task

    def drop(self, task_id: TaskId) -> Task | None:
        """Forgets the task; returns it."""
        task = self.tasks.pop(task_id, None)
        if task is not None:
            self.backlogs[task.model].add(task, -1)
        return task

    def leave_queue(self, task_id: TaskId) -> None:
        """Forgets what is kept of a task while it waits in its model's queue; the queue itself is the caller's."""
        self.rescued.pop(task_id, None)
        self.not_served_at_s.pop(task_id, None)
        self.unfit_since_s.pop(task_id, None)

    def place(self, lane: Lane) -> None:
        """Works out how the lane's models fit; to be called when its memory or its retired placements changed, and when it is new."""
        memory = lane.spec.memory
        lane.groups = self.fits.groups(memory, lane.retired)
        lane.budget_bytes = 0 if memory is None else memory.limits.budget_bytes
        self.fits.changed()

    def policy(self, model: Model) -> ModelPolicy:
        """What operators said about the model."""
        return self.policies[model]

    def is_quota_denied(self, model: Model, now_s: float) -> bool:
        """Whether lanes of the model cannot be started now; at exactly the end of a denial they can."""
        until_s = self.quota_until_s.get(model)
        return until_s is not None and now_s < until_s


@dataclass(slots=True, kw_only=True)
class Turn:
    """One event being handled: the state, the time, and the commands so far.

    Attributes:
        now_s: the time that decides; asked for at every step.
        unwished: the lane that must be told of a settled attempt; unless something else tells it before, it is told at the end.
    """

    state: State
    now: Now
    now_s: float = field(init=False)
    commands: list[Command] = field(default_factory=list)
    unwished: Lane | None = None

    def __post_init__(self) -> None:
        self.now_s = self.now.monotonic_s

    def emit(self, command: Command) -> None:
        """Adds a command."""
        self.commands.append(command)

    def store(self, task: Task, *, accepts: bool = False) -> None:
        """The task's new state is remembered, written and shown; a terminal one is forgotten once written."""
        if task.state in TERMINAL:
            self.state.drop(task.task_id)
            self.state.withdrawn.pop(task.task_id, None)
            if task.is_withdrawn:
                self.state.withdrawn[task.task_id] = task
        else:
            self.state.put(task)
        self.commands.append(PersistTask(task=task, accepts=accepts))

    def watch_unserved(self, task: Task, at_s: float) -> None:
        """A queued task fails at this time unless it was started."""
        self.state.not_served_at_s[task.task_id] = at_s
        self.state.deadlines.set(at_s, Due.NOT_SERVED, task.task_id)

    def record(self, event: Event) -> None:
        """Keeps an event."""
        self.commands.append(Record(event=event))
