"""Simulated lane processes: the real state machine of the lane in the little that an agent and a pipeline do, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from admission.core.lanes import LaneSpec, Lease, Outcome, Report, Work
from admission.core.tasks import Failure, FailureCode, LaneId, LaneMode, MemoryRecord, Model, Result, Stage, Task, TaskId
from runtime.lane import state as machine
from runtime.lane.outcome import Phase
from runtime.lane.state import (
    Activity,
    Attempt,
    Ended,
    ForgetOutcome,
    Idle,
    LaneState,
    StartAttempt,
    StopAttempt,
    StopReason,
    Wish,
    Working,
)
from runtime.objects import attempt_prefix
from tests.harness.memory import STREAMED, record, worker
from tests.simulation.gpu import taken_bytes
from tests.simulation.loop import Handle, Process
from tests.simulation.objects import Writer
from tests.simulation.stream import Stream

if TYPE_CHECKING:
    from admission.engine_types import LaneWish
    from tests.simulation.world import World

_STAGES = {Phase.LOADING: Stage.LOADING_PIPELINE, Phase.INFERENCE: Stage.INFERENCE, Phase.ENCODING: Stage.ENCODING}
_RETRY_MIN_S, _RETRY_MAX_S = 0.1, 2.0
_FIRST_ANSWER_S = 10.0
_PROGRESS_SPACING_S = 0.2
_CANCEL_GRACE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Nature:
    """How the pipelines of a history behave; seconds and probabilities.

    Attributes:
        longest_finish_s: the files of a clip take up to so long.
        hangs: of renders, and of what makes their files, that never end by themselves.
        overlaps: of lane processes that finish a clip beside the next render; the others know no second place.
    """

    shortest_s: float = 1.0
    longest_s: float = 15.0
    longest_finish_s: float = 4.0
    overlaps: float = 0.85
    load_s: float = 2.0
    stream_life_s: float = 60.0
    fails: float = 0.05
    child_dies: float = 0.05
    out_of_memory: float = 0.05
    unmeasured: float = 0.05
    hangs: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a lane is; `budgets` are those of its boots in turn, in MiB."""

    lane_id: LaneId
    models: tuple[Model, ...]
    is_pool: bool = False
    budgets: tuple[int, ...] = ()

    def spec(self, boot: int) -> LaneSpec:
        """What a boot of it reports once it has measured its memory."""
        mode = LaneMode.DEGRADED_SHARED if self.is_pool else LaneMode.DEDICATED
        memory = worker(self.budgets[boot % len(self.budgets)], *self.models) if self.budgets else None
        return LaneSpec(lane_id=self.lane_id, mode=mode, models=self.models, device="simulated", memory=memory)


class LaneProcess:
    """One boot of a lane."""

    def __init__(self, world: World, identity: Identity, boot: int, random: Random) -> None:
        self.name = f"{identity.lane_id}#{boot}"
        self.process = Process(world.loop, self.name)
        self.process.on_death = self._died
        self.identity = identity
        self.boot_id = f"boot-{boot}"
        self.state = LaneState()
        self.is_warm = False
        self.is_healthy = True
        self.unreachable_until_s = 0.0
        self.streams: list[Stream] = []
        self.resident: Model | None = None
        self._world = world
        self._spec = identity.spec(boot)
        self._drift = 0
        self._leased: dict[Attempt, tuple[str, Task]] = {}
        self._random = random
        self._streams_opened = 0
        self._tries = 0
        self._current: Stream | None = None
        self._sent_s = -1.0
        self._next_report: Handle | None = None
        self._soon: Handle | None = None
        self._interval_s = 2.0
        self._overlaps = random.random() < world.nature.overlaps
        self._ends: dict[Attempt, list[Handle]] = {}
        self._deadlines: dict[Attempt, Handle] = {}
        self._left_s: dict[Attempt, float] = {}
        self._to_finish: list[tuple[Attempt, Outcome]] = []
        self._outcomes: dict[Attempt, Outcome] = {}
        self.process.after(random.random() * world.nature.load_s, self._warmed)
        self.process.after(0.0, self._dial)

    # What befalls it.

    def kill(self) -> None:
        """kill -9."""
        self._world.tell(f"{self.name} is killed")
        self.process.die()

    def child_dies(self) -> None:
        """The pipeline's process dies under the agent, which starts another."""
        self._world.tell(f"the pipeline's process of {self.name} dies")
        self.is_warm, self.resident = False, None
        for attempt in self._in_work():
            self._end(attempt, self._failed(FailureCode.LANE_LOST, "The pipeline's process died.", measured=False))
        self.process.after(self._random.random() * 5.0, self._warmed)
        self._nudge(urgent=True)

    def set_health(self, *, healthy: bool) -> None:
        """Its health check fails, or holds again."""
        self._world.tell(f"{self.name} is {'healthy again' if healthy else 'unhealthy'}")
        self.is_healthy = healthy
        self._nudge(urgent=True)

    def drain(self, grace_s: float) -> None:
        """SIGTERM: nothing new is begun; what is in work may end within the grace; then the process ends."""
        self._world.tell(f"{self.name} is told to stop within {grace_s:.1f} s")
        self.state = machine.drained(self.state)
        self._nudge(urgent=True)
        self.process.after(grace_s, self._stop_now)
        self.process.after(0.1, self._leave_when_settled, self._world.loop.time() + grace_s + _CANCEL_GRACE_S)

    def cut(self, admission_hears_s: float, lane_hears_s: float) -> None:
        """Every stream it has breaks."""
        for stream in list(self.streams):
            stream.cut(admission_hears_s, lane_hears_s)

    # The streams (runtime.lane.agent and attachment).

    def connected(self, stream: Stream) -> None:
        self._send(stream)

    def wished(self, stream: Stream, wish: LaneWish) -> None:
        """A message of admission came on this stream."""
        if wish.controller_epoch < self.state.epoch:
            self._leave(stream, "admission's epoch is over")
            return
        self._take_over(stream)
        desired = wish.wish
        lease, finishing = _attempt(desired.lease), _attempt(desired.finishing)
        ends = (_attempt(desired.acknowledged_before), _attempt(desired.acknowledged))
        asked = Wish(
            stream=stream.number,
            epoch=wish.controller_epoch,
            sequence=desired.sequence,
            lease=lease,
            # Who knows no second place does not read what is said of it.
            acknowledged=tuple(one for one in (ends if self._overlaps else ends[1:]) if one is not None),
            finishing=finishing if self._overlaps else None,
        )
        if machine.is_stale(self.state, asked):
            return
        self._interval_s = max(0.1, wish.report_interval_s)
        before = self.state.activities
        self.state, actions = machine.wished(self.state, asked)
        if lease is not None and desired.lease is not None and wish.task is not None:
            self._leased = {lease: (desired.lease.placement, wish.task)}
        self._carry_out(actions, desired.render_deadline_s, None if wish.task is None else wish.task.model)
        self._nudge(urgent=before != self.state.activities)

    def broken(self, stream: Stream, reason: str) -> None:
        """The stream ended under it."""
        self._leave(stream, reason)

    def _dial(self) -> None:
        self._streams_opened += 1
        stream = Stream(self._world, self, self._streams_opened)
        self.streams.append(stream)
        self.process.after(_FIRST_ANSWER_S, self._unanswered, stream)

    def _unanswered(self, stream: Stream) -> None:
        if stream in self.streams and stream is not self._current and not stream.is_left:
            stream.leave()
            self._leave(stream, "no answer")

    def _take_over(self, stream: Stream) -> None:
        """The first answer on a newer stream: it is the one that counts, older ones are left."""
        if self._current is stream or (self._current is not None and self._current.number > stream.number):
            return
        self._current = stream
        self._tries = 0
        self._world.tell(f"{self.name} has stream {stream.number}")
        for other in [other for other in self.streams if other.number < stream.number]:
            other.leave()
            self.streams.remove(other)
        self.process.after(self._world.nature.stream_life_s * self._random.uniform(0.8, 1.0), self._recycle, stream)

    def _recycle(self, stream: Stream) -> None:
        if self._current is stream and stream in self.streams:
            self._dial()

    def _leave(self, stream: Stream, reason: str) -> None:
        if stream not in self.streams:
            return
        stream.leave()
        self.streams.remove(stream)
        if self._current is stream:
            self._current = None
            self._world.tell(f"{self.name} lost stream {stream.number}: {reason}")
        if any(other.number > stream.number for other in self.streams):
            # A newer one is being opened already.
            return
        self._tries += 1
        delay_s = min(_RETRY_MIN_S * 2 ** min(self._tries, 8), _RETRY_MAX_S) * self._random.uniform(0.5, 1.0)
        self.process.after(delay_s, self._dial)

    # Reports.

    def _nudge(self, *, urgent: bool) -> None:
        now_s = self._world.loop.time()
        if urgent or now_s >= self._sent_s + _PROGRESS_SPACING_S:
            self._send_all()
        elif self._soon is None:
            self._soon = self.process.at(self._sent_s + _PROGRESS_SPACING_S, self._send_soon)

    def _send_soon(self) -> None:
        if self._soon is not None:
            self._send_all()

    def _send_all(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        for stream in self.streams:
            if stream.is_open:
                self._send(stream)

    def _send(self, stream: Stream) -> None:
        self._sent_s = self._world.loop.time()
        stream.write(self._report(stream))
        if self._next_report is not None:
            self._next_report.cancel()
        self._next_report = self.process.after(self._interval_s, self._send_all)

    def _report(self, stream: Stream) -> Report:
        return Report(
            # It measures before it is warm.
            spec=self._spec if self.is_warm else replace(self._spec, memory=None),
            boot_id=self.boot_id,
            session=0,
            seen_sequence=self.state.seen_sequence(stream.number),
            warm=self.is_warm,
            healthy=self.is_healthy,
            draining=self.state.draining,
            resident_model=self.resident,
            work=self._work(self.state.activity),
            finishing=self._work(self.state.finishing),
        )

    def _work(self, activity: Activity) -> Work | None:
        match activity:
            case Idle():
                return None
            case Working(attempt=attempt, phase=phase, progress=progress, detail=detail, gpu_free=gpu_free):
                task_id, stage = TaskId(attempt.task_id), _STAGES[phase]
                return Work(task_id=task_id, attempt=attempt.number, stage=stage, progress=progress, detail=detail, gpu_free=gpu_free)
            case Ended(attempt=attempt, progress=progress):
                outcome = self._outcomes[attempt]
                task_id = TaskId(attempt.task_id)
                return Work(task_id=task_id, attempt=attempt.number, stage=Stage.ENCODING, progress=progress, outcome=outcome)

    # Renders.

    def _carry_out(self, actions: tuple[machine.Action, ...], deadline_s: float, model: Model | None) -> None:
        for action in actions:
            match action:
                case StartAttempt(attempt=attempt):
                    self._start(attempt, deadline_s, model)
                case StopAttempt(attempt=attempt, reason=reason):
                    self._stop(attempt, reason)
                case ForgetOutcome():
                    pass

    def _start(self, attempt: Attempt, deadline_s: float, model: Model | None) -> None:
        random, nature = self._random, self._world.nature
        busy = [one.attempt for one in self.state.activities if isinstance(one, Working) and not one.gpu_free and one.attempt != attempt]
        self._world.checker.expect(not busy, f"{self.name} starts {self._named(attempt)} beside {busy}")
        self._world.tell(f"{self.name} starts {self._named(attempt)}")
        load_s = 0.05 if model == self.resident else random.random() * nature.load_s
        self.resident = model
        render_s = load_s + random.uniform(nature.shortest_s, nature.longest_s)
        for part in range(1, random.choice((1, 1, 2, 4))):
            self._later(load_s + (render_s - load_s) * part / 4, self._progress, attempt, 25 * part)
        self._deadlines[attempt] = self.process.after(deadline_s, self._overdue, attempt)
        if random.random() >= nature.hangs:
            outcome = self._outcome(attempt, render_s)
            # What fails does so on the GPU or later.
            fails_early = outcome.failure is not None and random.random() < 0.5
            self._later(render_s, self._end if fails_early else self._gpu_ended, attempt, outcome)

    def _later(self, delay_s: float, function: Callable[..., object], attempt: Attempt, *args: object) -> None:
        """Something that the attempt comes to, unless it ends before."""
        self._ends.setdefault(attempt, []).append(self.process.after(delay_s, function, attempt, *args))

    def _in_work(self) -> list[Attempt]:
        return [one.attempt for one in self.state.activities if isinstance(one, Working)]

    def _gpu_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        """The GPU's part is over; its files are made when those of the attempt before it are."""
        if self._overlaps:
            self.state = machine.freed(self.state, attempt)
            self._nudge(urgent=True)
        self._to_finish.append((attempt, outcome))
        if len(self._to_finish) == 1:
            self._finish_next()
        else:
            deadline = self._deadlines.pop(attempt)
            deadline.cancel()
            self._left_s[attempt] = deadline.when() - self._world.loop.time()

    def _finish_next(self) -> None:
        if not self._to_finish:
            return
        (attempt, outcome), random = self._to_finish[0], self._random
        if attempt in self._left_s:
            self._deadlines[attempt] = self.process.after(self._left_s.pop(attempt), self._overdue, attempt)
        if random.random() >= self._world.nature.hangs:
            self._later(random.random() * self._world.nature.longest_finish_s, self._end, attempt, outcome)

    def _overdue(self, attempt: Attempt) -> None:
        if attempt in self._in_work():
            self.state, actions = machine.stopped(self.state, StopReason.DEADLINE, attempt)
            self._carry_out(actions, 0.0, None)

    def _stop(self, attempt: Attempt, reason: StopReason) -> None:
        self._world.tell(f"{self.name} stops {self._named(attempt)}: {reason}")
        stopped = machine.stop_failure(reason)
        failure = Failure(code=FailureCode(stopped.code.value), message=stopped.message)
        outcome = Outcome(failure=failure, memory=self._memory())
        # A render that ends right now is not stopped any more: the stop and the end cross.
        self.process.after(self._random.random() * 3.0, self._end, attempt, outcome)

    def _progress(self, attempt: Attempt, progress: int) -> None:
        self.state = machine.progressed(self.state, attempt, Phase.INFERENCE, progress, f"{progress} of 100")
        self._nudge(urgent=False)

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt not in self._in_work():
            return
        for handle in self._ends.pop(attempt, []):
            handle.cancel()
        if attempt in self._deadlines:
            self._deadlines.pop(attempt).cancel()
        self._left_s.pop(attempt, None)
        is_finished = bool(self._to_finish) and self._to_finish[0][0] == attempt
        self._to_finish = [one for one in self._to_finish if one[0] != attempt]
        how = "done" if outcome.failure is None else outcome.failure.code.value
        self._world.tell(f"{self.name} ended {self._named(attempt)}: {how}")
        if outcome.result is not None:
            self._world.objects.files[outcome.result.video_key] = Writer(self.identity.lane_id, self.boot_id)
        self._outcomes[attempt] = outcome
        # The state machine carries its own outcome type; only whether there is a result matters to it.
        self.state = machine.ended(self.state, attempt, outcome)  # type: ignore[arg-type]
        self._nudge(urgent=True)
        if is_finished:
            self._finish_next()

    def _outcome(self, attempt: Attempt, render_s: float) -> Outcome:
        nature, dice = self._world.nature, self._random.random()
        if dice < nature.fails:
            return self._failed(FailureCode.RENDER_FAILED, "The pipeline failed.")
        placement, task = self._leased.get(attempt, ("", None))
        if dice < nature.fails + nature.out_of_memory:
            ran_out = record(placement, out_of_memory=[placement, placement])
            return self._failed(FailureCode.GPU_MEMORY_EXCEEDED, "The GPU's memory ran out.", memory=ran_out)
        if dice < nature.fails + nature.out_of_memory + nature.child_dies:
            return self._failed(FailureCode.LANE_LOST, "The pipeline's process died.", measured=False)
        prefix = attempt_prefix(attempt.task_id, attempt.number)
        result = Result(
            video_key=f"{prefix}video.mp4",
            media_type="video/mp4",
            size_bytes=1000,
            sha256="00" * 32,
            preview_key=f"{prefix}preview.jpg",
            width=64,
            height=64,
            num_frames=9,
            fps=16,
        )
        return Outcome(result=result, memory=self._rendered(placement, task), render_s=render_s)

    def _rendered(self, placement: str, task: Task | None) -> MemoryRecord:
        """Of a render that ended well: now and then it took more than predicted, or the first placement did not hold."""
        dice, random = self._random.random(), self._random
        if dice < self._world.nature.unmeasured or not placement or task is None:
            return self._memory()
        if dice < self._world.nature.unmeasured + self._world.nature.out_of_memory:
            return record(STREAMED, out_of_memory=[placement])
        off = random.choice((0.9, 1.0, 1.0, 1.05, 1.2))
        self._drift = max(0, self._drift + random.randrange(-(2**23), 2**25))
        change = {"loaded_model": self.resident, "load_duration": "0.5s"} if random.random() < 0.1 else None
        peak_bytes = taken_bytes(self._spec.memory, task, placement, off)
        return record(placement, peaks={"denoise": peak_bytes}, drift_bytes=self._drift, residency_change=change)

    def _failed(self, code: FailureCode, message: str, *, measured: bool = True, memory: MemoryRecord | None = None) -> Outcome:
        found = (memory or self._memory()) if measured else MemoryRecord(unmeasured_reason="its process died")
        return Outcome(failure=Failure(code=code, message=message), memory=found)

    def _memory(self) -> MemoryRecord:
        if self._random.random() < self._world.nature.unmeasured:
            return MemoryRecord(unmeasured_reason="the device did not answer")
        return MemoryRecord(figures={"device": "simulated"})

    # Its own life.

    def _warmed(self) -> None:
        self.is_warm = True
        self._nudge(urgent=True)

    def _stop_now(self) -> None:
        self.state, actions = machine.stopped(self.state, StopReason.SHUTDOWN)
        self._carry_out(actions, 0.0, None)

    def _leave_when_settled(self, until_s: float) -> None:
        now_s = self._world.loop.time()
        if self._in_work() and now_s < until_s:
            self.process.after(0.25, self._leave_when_settled, until_s)
        elif any(isinstance(one, Ended) for one in self.state.activities) and now_s < until_s:
            # The last word is repeated for two seconds; then it is lost with the process.
            self.process.after(0.25, self._leave_when_settled, min(until_s, now_s + 2.0))
        else:
            self._send_all()
            self.process.after(0.05, self._gone)

    def _gone(self) -> None:
        self._world.tell(f"{self.name} has stopped")
        self.process.die()

    def _died(self) -> None:
        for stream in self.streams:
            stream.lane_died()
        self._world.lane_died(self)

    def _named(self, attempt: Attempt) -> str:
        return f"{self._world.name_of(attempt.task_id)} attempt {attempt.number}"


def _attempt(lease: Lease | None) -> Attempt | None:
    return None if lease is None else Attempt(task_id=lease.task_id, number=lease.attempt)
