"""The async shell: reads the clock once per event, runs the core, has it persisted, then replies and sends."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, assert_never

import structlog

from admission import views
from admission.core import refusals
from admission.core.commands import (
    Command,
    DiscardAttempt,
    DiscardTask,
    ForgetLane,
    PersistLane,
    PersistLearned,
    PersistPolicy,
    PersistTask,
    Record,
    ReplyAccepted,
    ReplyOverloaded,
    ReplyRefused,
    SendWish,
)
from admission.core.events import (
    AcceptancesNotStored,
    AdmissionStarted,
    CallerLeft,
    CancelRequested,
    CapacityReported,
    CoreEvent,
    FallbackSet,
    LaneDrainSet,
    RequestTurnedAway,
    StoreSlowed,
    TaskDeleted,
    TaskImported,
    TaskSubmitted,
    TimePassed,
)
from admission.core.fit import FitRules
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.refusals import ModelLimits
from admission.core.tasks import TERMINAL, Event, LaneId, Model, Task, TaskId, TaskState, input_keys
from admission.core.time import Now
from admission.draws import Draws
from admission.engine_types import (
    Accepted,
    LaneView,
    NotYetStoredError,
    OverloadedError,
    QueueView,
    RefusedError,
    Snapshot,
    Submission,
    TaskChange,
    TaskView,
    UnknownLaneError,
    UnknownTaskError,
)
from admission.fitting import shape_key
from admission.imports import Imports, Landing
from admission.journal import Journal
from admission.lane_session import EngineLaneSession, LaneSessions
from admission.object_sweeper import ObjectSweeper
from admission.observer import SILENT, Observer
from admission.reign import Reign
from admission.shown import ShownTasks
from admission.store.port import EventPage, EventQuery, Store, StoreUnavailableError, TaskPage, TaskQuery
from admission.store_watch import StoreWatch
from admission.submissions import Asking, Submissions
from admission.watching import Watching
from runtime.clock import Clock
from runtime.objects import attempt_prefix, task_prefix
from runtime.rules.catalogue import MODELS
from runtime.rules.effective import effective, latent_tokens
from runtime.rules.parameters import to_parameters

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_log = structlog.get_logger()

# A stop waits this long for decisions to reach the disk; what does not was never told to anyone.
_DRAIN_S = 5.0
# A cancel or a delete that cannot be made durable in this time is answered `service_unavailable`.
_STORE_PATIENCE_S = 10.0
# Refusals come from memory: they wait for no write.
_AT_ONCE = (ReplyOverloaded, ReplyRefused)


class Engine:
    """Owns the core, the journal and everyone who waits for them. One event loop; `start` before use, `stop` at the end."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        objects: ObjectStore,
        limits: Limits | None = None,
        fit_rules: FitRules | None = None,
        new_id: Callable[[], str] | None = None,
        observer: Observer = SILENT,
    ) -> None:
        """The store must be open. Without rules of Fit nothing is refused for its size before a lane was seen. `new_id` makes task ids;
        tests that must come out the same name their own."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._store_watch = StoreWatch(
            observer, now_s=lambda: clock.now().monotonic_s, on_slow=lambda seconds: self._handle(StoreSlowed(seconds=seconds))
        )
        self._started_at: datetime | None = None
        self._limits = limits or Limits()
        self._core = QueueState(self._limits, [Model(model) for model in MODELS], self._now(), fit_rules)
        self._sweeper = ObjectSweeper(objects)
        self._draws = Draws(clock)
        self._reign = Reign(store)
        self._submissions = Submissions(store, new_id or self._draws.task_id, self._ask, self._callers_left, self._settled)
        self._watching = Watching(store, self.task, lambda model: self._core.state.queues[model], self._reign.check)
        self._shown = ShownTasks(store, self._watching, observer)
        self.imports = Imports(store=store, objects=objects, sweeper=self._sweeper, is_known=self._is_known, put=self._take_over)
        self._lanes = LaneSessions(self._core.state, self._handle, self._limits.report_interval_s)
        self._timer: asyncio.TimerHandle | None = None
        # What the timer brings about belongs to no call, whichever call set it.
        self._own_context = contextvars.Context()
        self._armed_s = 0.0
        self._journal: Journal
        self._writer: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Claims the epoch and takes over what the store holds; from then on it serves."""
        self._failure = asyncio.get_running_loop().create_future()
        epoch = await self._reign.claim()
        tasks, lanes, policies = await self._store.unfinished(), await self._store.lanes(), await self._store.policies()
        learned = await self._store.learned()
        self._journal = Journal(
            self._store, epoch, self._carry_out, self._shown.recorded, self._acceptances_not_stored, observer=self._store_watch
        )
        self._shown.restore(tasks)
        self._journal.append(self._core.restore(tasks, lanes, self._now(), policies, learned))
        self._writer = asyncio.create_task(self._journal.run(), name="admission-journal")
        self._writer.add_done_callback(self._ended)
        self._watch = asyncio.create_task(self._reign.watch(), name="admission-epoch")
        self._watch.add_done_callback(self._ended)
        self._started_at = self._now().utc
        self._handle(AdmissionStarted(epoch=epoch))
        _log.info("engine_started", epoch=epoch, unfinished=len(tasks), lanes=len(lanes))

    async def stop(self) -> None:
        """Ends every stream and waiter, lets the journal reach the disk, and stops. May be called twice."""
        self._lanes.end()
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._writer is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._journal.flushed(), _DRAIN_S)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            self._writer = None
        self._watching.close()
        await self._submissions.close()
        await self.imports.close()
        await self._sweeper.close()

    async def wait_failed(self) -> None:
        """Returns never, or raises what makes it impossible to go on (a bug, another admission that rules): the process must then end."""
        if self._failure is None:
            msg = "start the engine first"
            raise RuntimeError(msg)
        await asyncio.shield(self._failure)

    @property
    def epoch(self) -> int:
        """Of this admission; 0 before `start`."""
        return self._reign.epoch

    def inputs_in_use(self) -> frozenset[str]:
        """Input images of every task that has not ended, held requests among them."""
        return frozenset(key for task in self._core.state.tasks.values() for key in input_keys(task.parameters))

    def submit(self, submission: Submission) -> Coroutine[Any, Any, Accepted]:
        """Accepts a checked request: returns once that is on disk.

        Raises:
            OverloadedError: the degraded queue is full, or the wait reached its limit.
            RefusedError: no lane can serve it, by its predicted memory or time.
            RequestReusedError: the owner used the idempotency key for another request.
            StoreUnavailableError: nothing was stored.
        """
        # Passed on, not awaited: every request goes through each coroutine on its way twice.
        return self._submissions.submit(submission)

    async def submit_together(self, submissions: Sequence[Submission]) -> list[Accepted | Exception | None]:
        """Accepts or refuses what can be decided at once: of each its acceptance, once that is on disk, or what `submit` would raise. None:
        it must be submitted by itself, and nothing was done."""
        due_s = self._core.next_due_s()
        if due_s is not None and due_s <= self._now().monotonic_s:
            # It may decide whether anything is held.
            self.tick()
        return await self._submissions.submit_together(
            submissions, would_hold=self._would_hold, is_held=self._is_held, all_asked=self._journal.gathered
        )

    async def task(self, task_id: TaskId) -> TaskView | None:
        """The task as last made durable, with its newest progress."""
        task = await self._shown.task(task_id)
        return None if task is None else views.view_task(self._core.state, task)

    async def task_events(self, task_id: TaskId) -> tuple[Event, ...]:
        """What happened to it, oldest first."""
        return await self._watching.task_events(task_id)

    def watch(self, task_id: TaskId, after_sequence: int = 0) -> AsyncGenerator[TaskChange, None]:
        """The newest state now and after every change with the events after this one; ends after the last or when it is deleted.

        Raises:
            UnknownTaskError: there is none.
            StaleEpochError: another admission rules, who may have told its watcher more than is known here.
        """
        return self._watching.watch_task(task_id, after_sequence)

    def watch_events(self, query: EventQuery, *, only_new: bool, follow: bool) -> AsyncGenerator[EventPage, None]:
        """Stored events, then (`follow`) those that are recorded."""
        return self._watching.watch_events(query, only_new=only_new, follow=follow)

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks as stored, running ones with their newest progress."""
        page = await self._store.page(query)
        return TaskPage(tasks=tuple(map(self._shown.newest, page.tasks)), total=page.total)

    async def cancel(self, task_id: TaskId, *, only_waiting: bool = False) -> TaskView:
        """Cancels unless it ended, or (`only_waiting`) a lane has had it; returns once that is on disk."""
        if not only_waiting:
            self._handle(CancelRequested(task_id=task_id))
        elif task_id in self._shown:
            # Accepted, so that nobody waits for it any more.
            self._handle(CallerLeft(task_id=task_id, may_return=False))
        await self._durable(self._journal.flushed())
        view = await self.task(task_id)
        if view is None:
            raise UnknownTaskError
        if view.task.state not in TERMINAL and not only_waiting:
            # An admission that replaced this one accepted it; only that one can end it.
            raise NotYetStoredError
        return view

    async def delete(self, task_id: TaskId) -> None:
        """Cancels, forgets and removes the files."""
        await self.cancel(task_id)
        self._handle(TaskDeleted(task_id=task_id))
        await self._durable(self._journal.delete(task_id))

    def importing(self, task_id: TaskId) -> AbstractAsyncContextManager[Landing | None]:
        """Takes a task of an earlier system over; None when there is one of this id."""
        return self.imports.importing(task_id)

    async def drain_lane(self, lane_id: LaneId, *, drained: bool) -> LaneView:
        """Gives the lane no more work, or work again; returns once that is on disk."""
        self._handle(LaneDrainSet(lane_id=lane_id, drained=drained))
        await self._durable(self._journal.flushed())
        lane = self._core.state.lanes.get(lane_id)
        if lane is None:
            raise UnknownLaneError
        return views.view_lane(self._core.state, lane, self._now().monotonic_s)

    async def set_fallback(self, model: Model, *, enabled: bool) -> QueueView:
        """Sends the model to the pool, or no longer; returns once that is on disk."""
        self._handle(FallbackSet(model=model, enabled=enabled))
        await self._durable(self._journal.flushed())
        return views.view_queue(self._core.state, model, self._now().monotonic_s)

    async def report_capacity(self, model: Model, *, denied_for_s: float | None, reason: str) -> QueueView:
        """The quota for lanes of the model is denied for so long, or granted; returns once that is on disk."""
        self._handle(CapacityReported(model=model, denied_for_s=denied_for_s, reason=reason))
        await self._durable(self._journal.flushed())
        return views.view_queue(self._core.state, model, self._now().monotonic_s)

    def open_lane(self) -> EngineLaneSession:
        """A new stream of some lane; its first report says which."""
        return self._lanes.open()

    def snapshot(self) -> Snapshot:
        """Everything at one instant."""
        seen = views.view_all(self._core.state, self.epoch, self._now().monotonic_s)
        return replace(seen, store=self._store_watch.view(), started_at=self._started_at)

    def model_limits(self, model: Model) -> ModelLimits:
        """What a client may ask of the model, by what is known now."""
        return refusals.limits(self._core.state, model)

    def tick(self) -> None:
        """Handles what is due by now; the timer calls it, and tests that move the clock."""
        self._handle(TimePassed())

    def _ask(self, asking: Asking, task_id: TaskId) -> None:
        """Puts a new request before the core."""
        submission = asking.submission
        request = submission.request
        now = self._now()
        model = Model(request.model)
        shape = shape_key(request)
        if self._core.is_closed(model, shape, now):
            # Under overload most requests come to this: no task is made for them.
            self._handle(RequestTurnedAway(task_id=task_id, model=model, shape=shape, waited_s=submission.waited_s), now)
            return
        used = effective(request, seed=request.seed if request.seed >= 0 else self._draws.seed())
        task = Task(
            task_id=task_id,
            owner=submission.owner,
            model=model,
            mode=used.mode,
            parameters=to_parameters(used),
            tokens=latent_tokens(used),
            state=TaskState.HELD,
            created_at=now.utc,
            updated_at=now.utc,
            request_id=submission.request_id,
            fingerprint=asking.fingerprint,
            trace=submission.trace,
        )
        self._handle(TaskSubmitted(task=task, waited_s=submission.waited_s), now)

    def _would_hold(self, submission: Submission) -> bool:
        return self._core.would_hold(Model(submission.request.model), shape_key(submission.request), self._now())

    def _is_held(self, task_id: TaskId) -> bool:
        return task_id in self._core.state.held

    def _callers_left(self, asking: Asking, task_id: TaskId) -> bool:
        """Whether it was accepted already: then its answer is on its way to the disk."""
        task = self._core.state.tasks.get(task_id)
        self._handle(CallerLeft(task_id=task_id, may_return=asking.may_return))
        return task is None or task.state is not TaskState.HELD

    async def _settled(self, task_id: TaskId) -> Task | None:
        await self._durable(self._journal.flushed())
        view = await self.task(task_id)
        return None if view is None else view.task

    async def _is_known(self, task_id: TaskId) -> bool:
        """Whether a task has this id, once everything that is decided has taken effect."""
        try:
            await asyncio.wait_for(self._journal.flushed(), _STORE_PATIENCE_S)
        except TimeoutError as error:
            msg = "what was decided before is not on disk yet"
            raise StoreUnavailableError(msg) from error
        return task_id in self._core.state.tasks or await self.task(task_id) is not None

    async def _take_over(self, task: Task) -> None:
        await self._submissions.answered(task.task_id, lambda: self._handle(TaskImported(task=task)))

    def _now(self) -> Now:
        reading = self._clock.now()
        return Now(monotonic_s=reading.monotonic_s, utc=reading.utc)

    def _handle(self, event: CoreEvent, now: Now | None = None) -> None:
        try:
            commands = self._core.handle(event, now or self._now())
        except Exception as error:
            # The core's state may be half changed: nothing may be decided with it. The store is sound; a fresh process goes on from there.
            self._fail(error)
            raise
        if len(commands) == 1 and isinstance(commands[0], _AT_ONCE):
            # The hot path under overload: nothing to write, nothing to order.
            self._carry_out(commands[0])
        elif commands:
            for command in commands:
                if isinstance(command, _AT_ONCE):
                    self._carry_out(command)
            self._journal.append([command for command in commands if not isinstance(command, _AT_ONCE)])
        self._arm_timer()

    def _carry_out(self, command: Command) -> None:
        match command:
            case ReplyAccepted(task=task):
                self._submissions.answer(task.task_id, task)
            case ReplyOverloaded(task_id=task_id):
                self._observer.refused(command)
                self._submissions.answer(task_id, OverloadedError(command))
            case ReplyRefused(task_id=task_id, refusal=refusal):
                self._observer.refused(command)
                self._submissions.answer(task_id, RefusedError(refusal))
            case PersistTask(task=task):
                self._shown.publish(task)
            case SendWish():
                self._lanes.send(command, self.epoch)
            case DiscardAttempt(task_id=task_id, attempt=attempt):
                self._sweeper.discard(attempt_prefix(task_id, attempt), unless=lambda: self._shown.needs(task_id, attempt))
            case DiscardTask(task_id=task_id):
                self._shown.deleted(task_id)
                self._sweeper.discard(task_prefix(task_id))
            case PersistLane() | ForgetLane() | PersistPolicy() | PersistLearned() | Record():
                msg = f"the journal passed on a write: {command!r}"
                raise AssertionError(msg)
            case _:
                assert_never(command)

    def _acceptances_not_stored(self, task_ids: frozenset[TaskId]) -> None:
        for task_id in sorted(task_ids):
            self._submissions.answer(task_id, StoreUnavailableError("the acceptance could not be stored"))
        self._handle(AcceptancesNotStored(task_ids=task_ids))

    async def _durable(self, write: Coroutine[None, None, None]) -> None:
        try:
            await asyncio.wait_for(write, _STORE_PATIENCE_S)
        except TimeoutError as error:
            raise NotYetStoredError from error

    def _arm_timer(self) -> None:
        """Has the core looked at when something is due. A tick that comes too early does no harm, so only an earlier one is set anew."""
        due_s = self._core.next_due_s()
        if due_s is None or (self._timer is not None and self._armed_s <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, due_s - self._clock.now().monotonic_s)
        self._armed_s = due_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._timer_fired, context=self._own_context)

    def _timer_fired(self) -> None:
        self._timer = None
        self.tick()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._fail(task.exception() or RuntimeError(f"{task.get_name()} ended"))

    def _fail(self, error: BaseException) -> None:
        _log.critical("engine_failed", error=repr(error), exc_info=error)
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)
