"""The lane's agent: keeps a stream to admission, carries out what it wishes, and keeps rendering while admission is away."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import structlog

from runtime.lane import state as lane
from runtime.lane.about import About
from runtime.lane.attachment import Attachment, StreamEndedError, Talk
from runtime.lane.convert import LaneIdentity, report_message, wish_of
from runtime.lane.observer import SILENT, LaneObserver
from runtime.lane.outcome import Failure, FailureCode, MemoryRecord, Outcome, Phase, unmeasured
from runtime.lane.scratch import remove_abandoned
from runtime.lane.state import Attempt, Ended, ForgetOutcome, Idle, LaneState, StartAttempt, StopAttempt, StopReason, Working
from runtime.lane.work import Order, WorkerSettings, WorkerStatus
from runtime.lane.worker import Worker
from runtime.rules.check import check_request
from runtime.rules.parameters import to_parameters
from runtime.rules.request import InvalidRequestError
from runtime.traces.context import TraceContext, parse
from runtime.wire import message_to_raw

if TYPE_CHECKING:
    from warmlane.lane.v1 import dispatch_service_pb2 as pb
    from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceAsyncStub

_log = structlog.get_logger()

_FIRST_ANSWER_S = 10.0
_RETRY_MIN_S = 0.1
_RETRY_MAX_S = 2.0
_PROVEN_S = 5.0
"""After a stream that lasted so long, the back-off begins anew."""
_MIN_INTERVAL_S = 0.1
_DEFAULT_DEADLINE_S = 900.0
"""For a lease that names none (the design's render deadline)."""
_RECORDS_KEPT = 20
_LAST_ACKNOWLEDGEMENT_S = 2.0
_END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """Times of the agent, in seconds.

    Attributes:
        report_interval_s: reports come at least so often, and more often when admission wishes so.
        stream_life_s: a stream is replaced by a new one after this time.
    """

    report_interval_s: float = 2.0
    stream_life_s: float = 600.0


class Agent:
    """The lane as admission sees it. One event loop owns it."""

    def __init__(
        self,
        identity: LaneIdentity,
        settings: AgentSettings,
        worker_settings: WorkerSettings,
        stub: DispatchServiceAsyncStub,
        on_change: Callable[[], None] = lambda: None,
        observer: LaneObserver = SILENT,
    ) -> None:
        """Starts nothing yet.

        Args:
            identity: what the lane is.
            settings: its times.
            worker_settings: what the pipeline's process is for.
            stub: of admission's DispatchService.
            on_change: called when the process's status changed.
            observer: is told what the worker and the attempts do.
        """
        self._identity = identity
        self._settings = settings
        self._cancel_grace_s = worker_settings.cancel_grace_s
        self._stub = stub
        self._worker = Worker(
            worker_settings,
            on_change=self._worker_changed,
            on_progress=self._progressed,
            on_gpu_free=self._gpu_freed,
            on_part=observer.part_ended,
        )
        self._listener = on_change
        self._observer = observer
        self._state = LaneState()
        self._activity_changed = asyncio.Event()
        self._wished_interval_s = settings.report_interval_s
        self._attachments: set[Attachment] = set()
        self._attached: Attachment | None = None
        self._is_drained = False
        self._streams = 0
        self._attempts: set[asyncio.Task[None]] = set()
        # For log lines, from the lease to the acknowledgement.
        self._about: dict[Attempt, About] = {}
        self._records: deque[MemoryRecord] = deque(maxlen=_RECORDS_KEPT)

    @property
    def status(self) -> WorkerStatus:
        """Of the pipeline's process."""
        return self._worker.status

    @property
    def is_attached(self) -> bool:
        """A stream to admission is open and answered."""
        return self._attached is not None

    @property
    def is_drained(self) -> bool:
        """Admission said last that an operator drains the lane. It is obeyed there: no lease comes."""
        return self._is_drained

    @property
    def epoch(self) -> int:
        """Newest controller epoch seen."""
        return self._state.epoch

    @property
    def memory_records(self) -> tuple[MemoryRecord, ...]:
        """Of the last attempts, newest last."""
        return tuple(self._records)

    def report(self, stream: int = 0) -> pb.LaneReport:
        """What it reports now on this stream."""
        return report_message(self._identity, self._state, self._worker.status, seen_sequence=self._state.seen_sequence(stream))

    async def run(self) -> None:
        """Serves until drained or cancelled; then the process and every stream are gone. Raises what went wrong inside the lane."""
        await asyncio.to_thread(remove_abandoned, self._identity.lane_id)
        attaching = asyncio.create_task(self._attach(), name="attach")
        working = asyncio.create_task(self._worker.run(), name="worker")
        tasks = {attaching, working}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            for task in tasks | self._attempts:
                task.cancel()
                await asyncio.wait({task})

    async def drain(self, grace_s: float) -> None:
        """Takes no more leases, lets what is in work end within `grace_s` or stops it, and tells admission; then ends the process."""
        self._become(lane.drained(self._state))
        self._nudge(urgent=True)
        if not await self._settled_within(grace_s, Working):
            state, actions = lane.stopped(self._state, StopReason.SHUTDOWN)
            self._become(state)
            self._carry_out(actions, None)
            await self._settled_within(self._cancel_grace_s + _END_S, Working)
        # Without this the outcome is lost with the process; the next boot would not know it.
        await self._settled_within(_LAST_ACKNOWLEDGEMENT_S, Ended)
        if self._attached is not None:
            await self._attached.say_last()
        await self._worker.stop(_END_S)

    async def _attach(self) -> None:
        """Keeps one stream; opens the next one before it leaves the last."""
        loop = asyncio.get_running_loop()
        current: Attachment | None = None
        tries = 0
        try:
            while True:
                following, started_s = self._new_attachment(), loop.time()
                try:
                    await following.open(_FIRST_ANSWER_S)
                    if current is not None:
                        await self._leave(current)
                    current = self._attached = following
                    _log.info("attached", stream=following.number, epoch=self._state.epoch)
                    # Not all lanes of a deployment at the same moment.
                    await following.held(self._settings.stream_life_s * random.uniform(0.8, 1.0))  # noqa: S311
                except StreamEndedError as error:
                    # Before the first answer admission is still starting, as lanes and it start together: no cause for alarm.
                    told = _log.error if error.is_refused else _log.warning if self._state.epoch else _log.info
                    told("stream_ended", stream=following.number, reason=str(error))
                    await self._leave(following)
                    if current is not None and current.is_over:
                        await self._leave(current)
                        current = None
                    tries = 0 if loop.time() - started_s > _PROVEN_S else tries + 1
                    await asyncio.sleep(_retry_delay_s(tries))
        finally:
            for attachment in tuple(self._attachments):
                await self._leave(attachment)

    def _new_attachment(self) -> Attachment:
        self._streams += 1
        attachment = Attachment(self._streams, self._stub, Talk(report=self.report, on_wish=self._wished, interval_s=self._interval_s))
        self._attachments.add(attachment)
        return attachment

    async def _leave(self, attachment: Attachment) -> None:
        if self._attached is attachment:
            self._attached = None
        self._attachments.discard(attachment)
        await attachment.close()

    def _interval_s(self) -> float:
        return self._wished_interval_s

    def _wished(self, stream: int, desired: pb.DesiredState) -> None:
        wish = wish_of(stream, desired)
        if wish.epoch < self._state.epoch:
            # An admission that another one has replaced: look for the other.
            msg = f"admission's epoch {wish.epoch} is over; {self._state.epoch} was seen"
            raise StreamEndedError(msg)
        if lane.is_stale(self._state, wish):
            return
        wished_s = desired.report_interval.ToMicroseconds() / 1e6 or self._settings.report_interval_s
        self._wished_interval_s = max(_MIN_INTERVAL_S, min(wished_s, self._settings.report_interval_s))
        if desired.drain is not self._is_drained:
            self._is_drained = desired.drain
            _log.info("lane_drained" if desired.drain else "lane_resumed")
        state, actions = lane.wished(self._state, wish)
        has_changed = state.activities != self._state.activities
        self._become(state)
        self._carry_out(actions, desired.lease)
        # Also when nothing changed: admission may wait to hear that this wish was seen.
        self._nudge(urgent=has_changed)

    def _carry_out(self, actions: tuple[lane.Action, ...], lease: pb.Lease | None) -> None:
        for action in actions:
            match action:
                case StartAttempt(attempt=attempt) if lease is not None:
                    task = asyncio.create_task(self._work(attempt, lease), name=f"attempt-{attempt.task_id}-{attempt.number}")
                    self._attempts.add(task)
                    task.add_done_callback(self._attempts.discard)
                case StopAttempt(attempt=attempt, reason=reason):
                    with self._told(attempt):
                        _log.info("attempt_stopped", reason=reason)
                        self._worker.cancel(attempt, reason)
                case ForgetOutcome(attempt=attempt):
                    with self._told(attempt):
                        _log.info("attempt_acknowledged")
                    self._about.pop(attempt, None)
                case _:
                    pass

    async def _work(self, attempt: Attempt, lease: pb.Lease) -> None:
        context = parse(lease.traceparent, lease.tracestate)
        self._about[attempt] = About(attempt, lease.request.model, "" if context is None else context.trace_id)
        with self._told(attempt):
            _log.info("attempt_started")
            self._observer.attempt_started(attempt, lease.request.model, context)
            await self._worked_on(attempt, lease, context)

    async def _worked_on(self, attempt: Attempt, lease: pb.Lease, context: TraceContext | None) -> None:
        try:
            outcome = await self._render(attempt, lease, context)
        except Exception:
            _log.exception("attempt_broken")
            outcome = _refused("The lane failed.", "the lane's agent failed")
        self._records.append(outcome.memory)
        self._observer.attempt_ended(attempt, lease.request.model, lease.request.steps, outcome)
        code = outcome.failure.code if outcome.failure is not None else "done"
        _log.info("attempt_ended", end=code, render_s=outcome.render_s)
        if (change := outcome.memory.residency_change) is not None:
            _log.info("model_switched", **asdict(change))
        figures = asdict(replace(outcome.memory, residency_change=None)) | {"measured_at": outcome.memory.measured_at.isoformat()}
        _log.info("memory_record", **figures)
        self._become(lane.ended(self._state, attempt, outcome))
        self._nudge(urgent=True)

    async def _render(self, attempt: Attempt, lease: pb.Lease, context: TraceContext | None) -> Outcome:
        try:
            request = check_request(message_to_raw(lease.request))
        except InvalidRequestError as error:
            return _refused(f"The lane refused the request: {error}", "nothing ran: the lane refused the request")
        if request.model not in self._identity.models:
            return _refused(f"This lane does not serve {request.model}.", "nothing ran: the lane does not serve the model")
        order = Order(
            attempt=attempt,
            parameters=to_parameters(request),
            artifact_prefix=lease.artifact_prefix,
            deadline_s=lease.render_deadline.ToMicroseconds() / 1e6 or _DEFAULT_DEADLINE_S,
            placement=lease.placement,
            predicted_peak_bytes=lease.predicted_peak_bytes,
            trace_id="" if context is None else context.trace_id,
            is_timed=context is not None and context.is_sampled and self._observer.wants_parts,
        )
        return await self._worker.render(order)

    def _progressed(self, attempt: Attempt, phase: Phase, progress: int, detail: str) -> None:
        self._become(lane.progressed(self._state, attempt, phase, progress, detail))
        self._nudge(urgent=False)

    def _gpu_freed(self, attempt: Attempt) -> None:
        with self._told(attempt):
            _log.info("gpu_freed")
        self._become(lane.freed(self._state, attempt))
        self._nudge(urgent=True)

    def _told(self, attempt: Attempt) -> AbstractContextManager[None]:
        """Log lines within the block say what they are about."""
        return self._about.get(attempt, About(attempt, "")).told()

    def _worker_changed(self) -> None:
        self._nudge(urgent=True)
        self._observer.status_changed(self._worker.status)
        self._listener()

    def _become(self, state: LaneState) -> None:
        self._state = state
        self._activity_changed.set()

    def _nudge(self, *, urgent: bool) -> None:
        for attachment in self._attachments:
            attachment.nudge(urgent=urgent)

    async def _settled_within(self, timeout_s: float, activity: type[Idle | Working | Ended]) -> bool:
        """Whether the lane stopped doing this kind of thing, in both places, in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                while any(isinstance(one, activity) for one in self._state.activities):
                    self._activity_changed.clear()
                    await self._activity_changed.wait()
        except TimeoutError:
            return False
        return True


def _refused(message: str, unmeasured_reason: str) -> Outcome:
    return Outcome(failure=Failure(code=FailureCode.RENDER_FAILED, message=message), memory=unmeasured(unmeasured_reason))


def _retry_delay_s(tries: int) -> float:
    """Doubles from `_RETRY_MIN_S` up to `_RETRY_MAX_S`, with up to half of it taken off at random so that lanes do not come in step."""
    return float(min(_RETRY_MIN_S * 2 ** min(tries, 8), _RETRY_MAX_S) * random.uniform(0.5, 1.0))  # noqa: S311
