"""Gathers what clients ask for into calls to admission: what comes while calls are under way goes with the next."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import grpc
import structlog
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.task_pb2 import Task, TaskState

from http_bridge.calls import CALL_TIMEOUT_S, answer
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc_errors import of_status, service_error
from runtime.submitter import ChannelLine
from runtime.traces.current import current

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc.aio
    from warmlane.generation.v1.generation_pb2 import GenerationRequest

_LOG = structlog.get_logger()

MOST_ITEMS = 32
# While admission writes one batch it decides on the next, and the bridge makes a third. More calls would have fewer items each.
MOST_CALLS = 2
"""Under way at a time."""
MOST_BYTES = 256 * 1024
"""Of a batch. A message may have 4 MiB, and few requests have more than some KiB."""

# A call ends when the time of its first item does: the others of its batch are not much younger.
_SAME_AGE_S = 1.0
_ASK_AGAIN_S = 60.0
# A call takes some milliseconds. While calls take longer, as on a disk that hangs, what comes is asked singly: it may be refused or held,
# which needs no disk, and is owed its answer.
_STUCK_S = 0.25
# From here on the time on the way counts as waited; below it a new key need not be looked for.
_COUNTED_S = 0.1
_MOST_WAITED_S = 30.0
# What clients who left have been accepted for is cancelled for so long yet when the bridge stops.
_LAST_WORDS_S = 1.0
_BACK_WITHIN_S = 5.0

# Asked for once: the enum looks its names up.
_QUEUED = TaskState.TASK_STATE_QUEUED
_SINGLY = admission.SubmitTasksAnswer(ask_singly=True)


@dataclass(slots=True, kw_only=True, eq=False)
class _Asked:
    """One submission on its way. Its answer is cancelled when its client leaves."""

    item: admission.SubmitTasksItem
    size_bytes: int
    begun_s: float
    until_s: float
    answer: asyncio.Future[admission.SubmitTasksAnswer]
    batch: _Batch | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Batch:
    """What one call carries; `waiting` counts those of its clients that are still there."""

    asked: Sequence[_Asked]
    waiting: int
    task: asyncio.Task[None] = field(init=False)


class GatheringLine:
    """Implements `runtime.submitter.Line`. Belongs to one event loop; `close` ends what it began.

    Law: an item is in the queue, in one running batch, or answered. What may have to wait is asked singly, so that no batch waits for it.
    """

    def __init__(self, channel: grpc.aio.Channel, *, now_s: Callable[[], float] = time.monotonic) -> None:
        """Over this channel, which its maker closes; time is measured by `now_s`, which only rises."""
        self._now_s = now_s
        self._single = ChannelLine(channel)
        self._stub = AdmissionServiceStub(channel)
        # In order; of those who leave, nothing stays.
        self._queue: OrderedDict[_Asked, None] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self._giving_up: set[asyncio.Task[None]] = set()
        self._is_flush_due = False
        # When the newest call began, by the loop's clock, and the next look at whether those under way are stuck.
        self._newest_s = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._is_closed = False
        # Until then admission is taken for one without the method.
        self._singly_until_s = float("-inf")
        self._is_told = False

    async def connect(self, within_s: float) -> bool:
        """See Line."""
        return await self._single.connect(within_s)

    async def pause(self, seconds: float) -> None:
        """See Line."""
        await self._single.pause(seconds)

    async def send(self, message: admission.SubmitTaskRequest, timeout_s: float) -> admission.SubmitTaskResponse:
        """See Line. Of a task that was accepted with others only its id and state are told."""
        now_s, size_bytes = self._now_s(), message.ByteSize()
        if size_bytes > MOST_BYTES or now_s < self._singly_until_s or self._stuck_in_s() <= 0 or not _can_be_gathered(message):
            return await self._single.send(message, timeout_s)
        asked = self._ask(message, size_bytes, now_s, now_s + timeout_s)
        try:
            told = await asked.answer
        except asyncio.CancelledError:
            self._left(asked)
            raise
        match told.WhichOneof("answer"):
            case "task_id":
                return admission.SubmitTaskResponse(task=Task(task_id=told.task_id, state=_QUEUED))
            case "refusal":
                raise of_status(told.refusal)
            case "ask_singly":
                return await self._asked_singly(message, asked)
            case _:
                raise _senseless()

    async def close(self) -> None:
        """Ends every call; whoever waits gets `service_unavailable`. Tasks that nobody knows of are given up first."""
        self._is_closed = True
        if self._look is not None:
            self._look.cancel()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        giving_up = tuple(self._giving_up)
        if giving_up:
            # Nobody else would say it: their tasks would be rendered for nobody.
            await asyncio.wait(giving_up, timeout=_LAST_WORDS_S)
        for task in giving_up:
            task.cancel()
        await asyncio.gather(*giving_up, return_exceptions=True)
        while self._queue:
            _refuse(self._queue.popitem(last=False)[0], _closed())

    async def _asked_singly(self, message: admission.SubmitTaskRequest, asked: _Asked) -> admission.SubmitTaskResponse:
        """The time that it took until here is part of the time for which it may be held."""
        now_s = self._now_s()
        if now_s - asked.begun_s >= _COUNTED_S:
            message.waited.FromMilliseconds(round(min(now_s - asked.begun_s, _MOST_WAITED_S) * 1000))
        return await self._single.send(message, max(0.0, asked.until_s - now_s))

    def _ask(self, message: admission.SubmitTaskRequest, size_bytes: int, begun_s: float, until_s: float) -> _Asked:
        if self._is_closed:
            raise _closed()
        item = admission.SubmitTasksItem(submission=message)
        context = current()
        if context is not None:
            item.traceparent, item.tracestate = context.traceparent, context.state
        loop = asyncio.get_running_loop()
        asked = _Asked(item=item, size_bytes=size_bytes, begun_s=begun_s, until_s=until_s, answer=loop.create_future())
        self._queue[asked] = None
        if len(self._running) >= MOST_CALLS:
            if self._look is None:
                self._look = loop.call_later(self._stuck_in_s(), self._give_out_stuck)
        elif not self._is_flush_due:
            # What other requests ask for in this turn of the loop goes along.
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return asked

    def _flush(self) -> None:
        """Sends what waits, as long as there is room for a call."""
        self._is_flush_due = False
        while self._queue and len(self._running) < MOST_CALLS and not self._is_closed:
            batch = self._taken()
            # In no client's context: the call belongs to none of them.
            batch.task = asyncio.create_task(self._run(batch), name="submit-tasks", context=contextvars.Context())
            self._running.add(batch.task)
            self._newest_s = asyncio.get_running_loop().time()
            batch.task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: _Batch, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        bug = None if task.cancelled() else task.exception()
        if bug is not None:
            _LOG.error("submit_tasks_broken", exc_info=bug)
        for asked in batch.asked:
            # Nobody may wait for what ended: all left, the bridge stops (a task that never ran hears nothing of it), or there is a bug.
            _refuse(asked, _closed() if bug is None else _senseless())
        self._flush()

    def _stuck_in_s(self) -> float:
        """When it must be said that the calls under way are stuck, unless one ends; infinite while there is room for one."""
        if len(self._running) < MOST_CALLS:
            return float("inf")
        return self._newest_s + _STUCK_S - asyncio.get_running_loop().time()

    def _give_out_stuck(self) -> None:
        """What waits for calls that are stuck waits no longer."""
        self._look = None
        left_s = self._stuck_in_s()
        if left_s > 0:
            if self._queue and left_s < float("inf"):
                self._look = asyncio.get_running_loop().call_later(left_s, self._give_out_stuck)
            return
        while self._queue:
            asked = self._queue.popitem(last=False)[0]
            if not asked.answer.done():
                asked.answer.set_result(_SINGLY)

    def _taken(self) -> _Batch:
        """The next batch: first come, first served."""
        taken: list[_Asked] = []
        size_bytes = 0
        for asked in self._queue:
            size_bytes += asked.size_bytes
            if taken and (size_bytes > MOST_BYTES or asked.until_s > taken[0].until_s + _SAME_AGE_S):
                break
            taken.append(asked)
            if len(taken) == MOST_ITEMS:
                break
        batch = _Batch(asked=taken, waiting=len(taken))
        for asked in taken:
            asked.batch = batch
            del self._queue[asked]
        return batch

    async def _run(self, batch: _Batch) -> None:
        """Makes one call and answers everyone of it."""
        request = admission.SubmitTasksRequest(items=[asked.item for asked in batch.asked])
        timeout_s = max(0.0, batch.asked[0].until_s - self._now_s())
        try:
            answers = (await self._stub.SubmitTasks(request, timeout=timeout_s)).answers
        except grpc.RpcError as error:
            self._broke(batch, error)
            return
        self._is_told = False
        if len(answers) != len(batch.asked):
            for asked in batch.asked:
                _refuse(asked, _senseless())
            return
        for asked, told in zip(batch.asked, answers, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(told)
            elif told.task_id:
                self._give_up(asked, told.task_id)

    def _broke(self, batch: _Batch, error: grpc.RpcError) -> None:
        is_missing = isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED
        if is_missing:
            self._singly_until_s = self._now_s() + _ASK_AGAIN_S
            if not self._is_told:
                _LOG.warning("admission_takes_no_batches", hint="it is older than this bridge, which asks it singly meanwhile")
            self._is_told = True
        for asked in batch.asked:
            if is_missing and not asked.answer.done():
                asked.answer.set_result(_SINGLY)
            else:
                # Each its own: an exception keeps the trace of whoever raises it.
                _refuse(asked, service_error(error))

    def _left(self, asked: _Asked) -> None:
        """A client is gone. Its item is dropped, or its call ended when it has no other, or its task cancelled when the answer comes."""
        if not asked.answer.cancelled():
            # The answer came in this very moment.
            told = None if asked.answer.exception() else asked.answer.result()
            if told is not None and told.task_id:
                self._give_up(asked, told.task_id)
        elif asked.batch is None:
            self._queue.pop(asked, None)
        else:
            asked.batch.waiting -= 1
            if not asked.batch.waiting:
                asked.batch.task.cancel()

    def _give_up(self, asked: _Asked, task_id: str) -> None:
        """Nobody knows of the task: unless a lane has had it, it is cancelled."""
        if self._is_closed:
            return
        message = admission.CancelTaskRequest(task_id=task_id, only_owner=asked.item.submission.owner, only_waiting=True)
        task = asyncio.create_task(self._cancel(message), name="give-up-task", context=contextvars.Context())
        self._giving_up.add(task)
        task.add_done_callback(self._giving_up.discard)

    async def _cancel(self, message: admission.CancelTaskRequest) -> None:
        try:
            await answer(self._stub.CancelTask(message, timeout=CALL_TIMEOUT_S))
        except ServiceError as error:
            # One that restarts is there again in a moment; the task waits until then.
            if error.code == ErrorCode.SERVICE_UNAVAILABLE and await self._single.connect(_BACK_WITHIN_S):
                with suppress(ServiceError):
                    await answer(self._stub.CancelTask(message, timeout=CALL_TIMEOUT_S))
                    return
            _LOG.warning("abandoned_task_not_cancelled", task=message.task_id, reason=error.message)


def _can_be_gathered(message: admission.SubmitTaskRequest) -> bool:
    """A first try under a key of our own, without images: what admission can decide at once, where there is room."""
    return message.abandon and not message.HasField("waited") and not _has_images(message.request)


def _has_images(request: GenerationRequest) -> bool:
    return bool(
        request.arbitrary_frames
        or request.HasField("reference_image")
        or request.HasField("first_frame_image")
        or request.HasField("last_frame_image")
    )


def _refuse(asked: _Asked, error: ServiceError) -> None:
    if not asked.answer.done():
        asked.answer.set_exception(error)


def _closed() -> ServiceError:
    return ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The bridge stops.", metadata={"bridge": "stopping"})


def _senseless() -> ServiceError:
    return ServiceError(code=ErrorCode.INTERNAL, message="Admission gave an answer that makes no sense.")
