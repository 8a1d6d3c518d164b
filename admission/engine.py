"""The async shell: reads the clock once per event, runs the core, has it persisted, then replies and sends."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, assert_never
from uuid import uuid4

import structlog

from admission import views
from admission.core.commands import (
    Command,
    DiscardAttempt,
    DiscardTask,
    PersistLane,
    PersistTask,
    Publish,
    Record,
    ReplyAccepted,
    ReplyOverloaded,
    SendWish,
)
from admission.core.events import (
    AcceptancesNotStored,
    CallerLeft,
    CancelRequested,
    CoreEvent,
    LaneDetached,
    LaneReported,
    TaskDeleted,
    TaskSubmitted,
    TimePassed,
)
from admission.core.lanes import Report
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.tasks import TERMINAL, Event, LaneId, Model, Task, TaskId, TaskState
from admission.core.time import Now
from admission.engine_types import (
    InvalidReportError,
    LaneWish,
    NotYetStoredError,
    OverloadedError,
    SessionEndedError,
    Snapshot,
    TaskView,
    UnknownTaskError,
)
from admission.journal import Journal
from admission.lane_session import EngineLaneSession
from admission.object_sweeper import ObjectSweeper
from admission.store.port import Store, StoreUnavailableError, TaskPage, TaskQuery
from runtime.clock import Clock
from runtime.objects import attempt_prefix, task_prefix
from runtime.rules.catalogue import MODELS
from runtime.rules.effective import effective, latent_tokens
from runtime.rules.parameters import to_parameters

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from runtime.rules.request import GenerationRequest

_log = structlog.get_logger()

# A stop waits this long for decisions to reach the disk; what does not was never told to anyone.
_DRAIN_S = 5.0
# A cancel or a delete that cannot be made durable in this time is answered `service_unavailable`.
_STORE_PATIENCE_S = 10.0


class Engine:
    """Owns the core, the journal and everyone who waits for them. One event loop; `start` before use, `stop` at the end."""

    def __init__(self, *, store: Store, clock: Clock, objects: ObjectStore, limits: Limits | None = None) -> None:
        """The store must be open."""
        self._store = store
        self._clock = clock
        self._limits = limits or Limits()
        self._core = QueueState(self._limits, [Model(model) for model in MODELS], self._now())
        self._sweeper = ObjectSweeper(objects)
        self._shown: dict[TaskId, Task] = {}
        self._callers: dict[TaskId, asyncio.Future[Task]] = {}
        self._watchers: dict[TaskId, set[asyncio.Event]] = {}
        self._sessions: dict[int, EngineLaneSession] = {}
        self._session_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._epoch = 0
        self._journal: Journal
        self._writer: asyncio.Task[None] | None = None
        self._failure: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Claims the epoch and takes over what the store holds; from then on it serves."""
        self._failure = asyncio.get_running_loop().create_future()
        self._epoch = await self._store.claim_epoch()
        tasks, lanes = await self._store.unfinished(), await self._store.lanes()
        self._journal = Journal(self._store, self._epoch, self._carry_out, self._acceptances_not_stored)
        self._shown = {task.task_id: task for task in tasks}
        self._journal.append(self._core.restore(tasks, lanes, self._now()))
        self._writer = asyncio.create_task(self._journal.run(), name="admission-journal")
        self._writer.add_done_callback(self._writer_ended)
        self._arm_timer()
        _log.info("engine_started", epoch=self._epoch, unfinished=len(tasks), lanes=len(lanes))

    async def stop(self) -> None:
        """Ends every stream and waiter, lets the journal reach the disk, and stops. May be called twice."""
        for session in list(self._sessions.values()):
            session.end()
        if self._timer is not None:
            self._timer.cancel()
        if self._writer is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._journal.flushed(), _DRAIN_S)
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            self._writer = None
        for future in self._callers.values():
            if not future.done():
                future.set_exception(StoreUnavailableError("admission stops"))
        await self._sweeper.close()

    async def wait_failed(self) -> None:
        """Returns never, or raises what makes it impossible to go on (a bug, another admission that rules): the process must then end."""
        if self._failure is None:
            msg = "start the engine first"
            raise RuntimeError(msg)
        await asyncio.shield(self._failure)

    async def submit(self, request: GenerationRequest, owner: str) -> Task:
        """Accepts a checked request: returns once that is on disk.

        Raises:
            OverloadedError: the degraded queue is full, or the wait reached its limit.
            StoreUnavailableError: nothing was stored.
        """
        seed = request.seed if request.seed >= 0 else secrets.randbelow(2**31)
        used = effective(request, seed=seed)
        now = self._now()
        task = Task(
            task_id=TaskId(uuid4().hex),
            owner=owner,
            model=Model(used.model),
            mode=used.mode,
            parameters=to_parameters(used),
            tokens=latent_tokens(used),
            state=TaskState.HELD,
            created_at=now.utc,
            updated_at=now.utc,
        )
        future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self._callers[task.task_id] = future
        try:
            self._handle(TaskSubmitted(task=task), now)
            return await future
        except asyncio.CancelledError:
            self._handle(CallerLeft(task_id=task.task_id))
            raise
        finally:
            del self._callers[task.task_id]

    async def task(self, task_id: TaskId) -> TaskView | None:
        """The task as last made durable, with its newest progress."""
        task = self._shown.get(task_id) or await self._store.task(task_id)
        return None if task is None else views.view_task(self._core.state, task)

    async def task_events(self, task_id: TaskId) -> tuple[Event, ...]:
        """What happened to it, oldest first."""
        return await self._store.events(task_id)

    async def watch(self, task_id: TaskId) -> AsyncGenerator[TaskView, None]:
        """The newest state now and after every change, merged for a slow reader; ends after a terminal one or when it is deleted."""
        changed = asyncio.Event()
        watchers = self._watchers.setdefault(task_id, set())
        watchers.add(changed)
        try:
            view = await self.task(task_id)
            if view is None:
                raise UnknownTaskError
            while view is not None:
                changed.clear()
                yield view
                if view.task.state in TERMINAL:
                    return
                await changed.wait()
                view = await self.task(task_id)
        finally:
            watchers.discard(changed)
            if not watchers and self._watchers.get(task_id) is watchers:
                del self._watchers[task_id]

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks as stored, running ones with their newest progress."""
        page = await self._store.page(query)
        return TaskPage(tasks=tuple(self._shown.get(task.task_id, task) for task in page.tasks), total=page.total)

    async def cancel(self, task_id: TaskId) -> TaskView:
        """Cancels unless it ended; returns once that is on disk."""
        self._handle(CancelRequested(task_id=task_id))
        await self._durable(self._journal.flushed())
        view = await self.task(task_id)
        if view is None:
            raise UnknownTaskError
        return view

    async def delete(self, task_id: TaskId) -> None:
        """Cancels, forgets and removes the files."""
        await self.cancel(task_id)
        self._handle(TaskDeleted(task_id=task_id))
        await self._durable(self._journal.delete(task_id))

    def open_lane(self) -> EngineLaneSession:
        """A new stream of some lane; its first report says which."""
        self._session_count += 1
        session = EngineLaneSession(self._session_count, self._take_report, self._detach)
        self._sessions[session.number] = session
        return session

    def snapshot(self) -> Snapshot:
        """Everything at one instant."""
        return views.view_all(self._core.state, self._epoch, self._now().monotonic_s)

    def tick(self) -> None:
        """Handles what is due by now; the timer calls it, and tests that move the clock."""
        self._handle(TimePassed())

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
        answers = [command for command in commands if isinstance(command, ReplyOverloaded)]
        for answer in answers:
            self._carry_out(answer)
        if len(commands) > len(answers):
            self._journal.append([command for command in commands if not isinstance(command, ReplyOverloaded)])
        self._arm_timer()

    def _carry_out(self, command: Command) -> None:
        match command:
            case ReplyAccepted(task=task):
                self._answer(task.task_id, task)
            case ReplyOverloaded(task_id=task_id):
                self._answer(task_id, OverloadedError(command))
            case Publish(task=task):
                self._publish(task)
            case SendWish():
                self._send_wish(command)
            case DiscardAttempt(task_id=task_id, attempt=attempt):
                self._sweeper.discard(attempt_prefix(task_id, attempt), unless=lambda: self._is_wanted(task_id, attempt))
            case DiscardTask(task_id=task_id):
                self._wake_watchers(task_id)
                self._sweeper.discard(task_prefix(task_id))
            case PersistTask() | PersistLane() | Record():
                msg = f"the journal passed on a write: {command!r}"
                raise AssertionError(msg)
            case _:
                assert_never(command)

    def _answer(self, task_id: TaskId, answer: Task | Exception) -> None:
        future = self._callers.get(task_id)
        if future is None or future.done():
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _publish(self, task: Task) -> None:
        if task.state in TERMINAL:
            self._shown.pop(task.task_id, None)
        else:
            self._shown[task.task_id] = task
        self._wake_watchers(task.task_id)

    def _wake_watchers(self, task_id: TaskId) -> None:
        for changed in self._watchers.get(task_id, ()):
            changed.set()

    async def _is_wanted(self, task_id: TaskId, attempt: int) -> bool:
        """The store, not the core, knows whether an attempt was committed: the core forgets ended tasks."""
        task = self._shown.get(task_id) or await self._store.task(task_id)
        return task is not None and task.attempt == attempt and task.state in (TaskState.DONE, TaskState.LEASED)

    def _send_wish(self, command: SendWish) -> None:
        session = self._sessions.get(command.session)
        lease = command.wish.lease
        task = None if lease is None else self._core.state.tasks.get(lease.task_id)
        if session is None or (lease is not None and (task is None or task.attempt != lease.attempt)):
            # The stream is gone, or the lease is over already: the wish that followed from that is on its way.
            return
        session.offer(
            LaneWish(controller_epoch=self._epoch, wish=command.wish, task=task, report_interval_s=self._limits.report_interval_s)
        )

    def _acceptances_not_stored(self, task_ids: frozenset[TaskId]) -> None:
        for task_id in task_ids:
            self._answer(task_id, StoreUnavailableError("the acceptance could not be stored"))
        self._handle(AcceptancesNotStored(task_ids=task_ids))

    def _take_report(self, session: EngineLaneSession, report: Report) -> None:
        known = self._core.state.lanes.get(report.spec.lane_id)
        if known is not None and report.boot_id in known.past_boots:
            # An older process of the lane that is still going down: the newer one rules, whoever dials last.
            raise SessionEndedError
        if session.lane_id is None:
            self._adopt(session, report.spec.lane_id)
        elif session.lane_id != report.spec.lane_id:
            msg = f"lane_id changed from {session.lane_id} to {report.spec.lane_id} within one stream"
            raise InvalidReportError(msg)
        unknown = [model for model in report.spec.models if model not in MODELS]
        if unknown or not report.spec.models:
            msg = f"models must name some of {', '.join(MODELS)}; got {', '.join(unknown) or 'none'}"
            raise InvalidReportError(msg)
        self._handle(LaneReported(report=report))

    def _adopt(self, session: EngineLaneSession, lane_id: LaneId) -> None:
        """The newest stream of a lane is the only one."""
        session.lane_id = lane_id
        for other in list(self._sessions.values()):
            if other.lane_id == lane_id and other is not session:
                other.end()
                del self._sessions[other.number]

    def _detach(self, session: EngineLaneSession) -> None:
        self._sessions.pop(session.number, None)
        if session.lane_id is not None:
            self._handle(LaneDetached(lane_id=session.lane_id, session=session.number))

    async def _durable(self, write: Coroutine[None, None, None]) -> None:
        try:
            await asyncio.wait_for(write, _STORE_PATIENCE_S)
        except TimeoutError as error:
            raise NotYetStoredError from error

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due_s = self._core.next_due_s()
        if due_s is None:
            self._timer = None
            return
        delay_s = max(0.0, due_s - self._clock.now().monotonic_s)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.tick)

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        if not writer.cancelled():
            self._fail(writer.exception() or RuntimeError("the journal ended"))

    def _fail(self, error: BaseException) -> None:
        _log.critical("engine_failed", error=repr(error), exc_info=error)
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)
