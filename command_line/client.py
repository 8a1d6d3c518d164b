"""Admission as the command line sees it: every call with a timeout, every refusal as a ServiceError, breaks of a stream repaired."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Protocol, TypeVar

import grpc
from warmlane.admission.v1 import (
    admission_service_pb2,
    admission_service_pb2_grpc,
    operator_service_pb2,
    operator_service_pb2_grpc,
    task_pb2,
)
from warmlane.generation.v1 import generation_pb2

from runtime.credentials import OPEN_CALLER, CallerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc import create_channel
from runtime.rpc_errors import service_error
from runtime.submitter import ChannelLine, Patience, Submitter

# Admission takes up to 10 s to make an operator's word durable before it says that it cannot.
_CALL_TIMEOUT_S = 12.0
_UPLOAD_TIMEOUT_S = 60.0
# No call lasts for ever: admission ends a watch after 30 minutes, and this is for an admission that does not.
_WATCH_TIMEOUT_S = 2_000.0
_READ_TIMEOUT_S = 300.0
_IMPORT_TIMEOUT_S = 2 * 3600.0
_RETRY_PAUSE_S = 0.5
PATIENCE_S = 60.0
"""How long a stream may stay broken; an admission that restarts is back by then."""

# Somebody sits in front of it: an admission that is not there is told soon, one that goes away with the request is waited for.
_PATIENCE = Patience(reach_s=1.0)
_CHUNK_BYTES = 256 * 1024

_CUT_SHORT = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The service ended its answer too early.")

TERMINAL = frozenset({task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED})


class _Sequenced(Protocol):
    @property
    def last_sequence(self) -> int: ...


class _Resumable(Protocol):
    after_sequence: int


_Answer = TypeVar("_Answer", bound=_Sequenced)
_Sent_co = TypeVar("_Sent_co", covariant=True)


class _Stream(Protocol[_Sent_co]):
    def __aiter__(self) -> AsyncIterator[_Sent_co]: ...

    def cancel(self) -> bool: ...


class Listener(Protocol):
    """Is told when a stream breaks and when it goes on, and when a request is sent again."""

    def broken(self, error: ServiceError) -> None:
        """Admission is away; it is tried again."""
        ...

    def resumed(self, after_sequence: int) -> None:
        """It is back, and the stream goes on after this event."""
        ...

    def repeated(self, error: ServiceError) -> None:
        """A request was not answered for this reason; it is sent again under the same key."""
        ...


class AdmissionClient:
    """Calls admission over a channel that its maker closes. Every method raises ServiceError."""

    def __init__(self, channel: grpc.aio.Channel, *, patience_s: float = PATIENCE_S, listener: Listener | None = None) -> None:
        """Keeps the channel.

        Args:
            channel: to admission.
            patience_s: how long a stream may stay broken before its reader gets the error.
            listener: is told of breaks; None: nobody.
        """
        self._tasks = admission_service_pb2_grpc.AdmissionServiceStub(channel)
        self._operator = operator_service_pb2_grpc.OperatorServiceStub(channel)
        self._submitter = Submitter(
            ChannelLine(channel), patience=_PATIENCE, now_s=time.monotonic, on_repeat=None if listener is None else listener.repeated
        )
        self._patience_s = patience_s
        self._listener = listener

    async def upload(self, content: bytes) -> generation_pb2.InputImage:
        """Brings an image in; the answer names it in a request."""

        async def chunks() -> AsyncIterator[admission_service_pb2.UploadInputRequest]:
            for start in range(0, len(content), _CHUNK_BYTES):
                yield admission_service_pb2.UploadInputRequest(chunk=content[start : start + _CHUNK_BYTES])

        with _refusals():
            answer = await self._tasks.UploadInput(chunks(), timeout=_UPLOAD_TIMEOUT_S)
        return answer.image

    async def submit(self, request: generation_pb2.GenerationRequest) -> task_pb2.Task:
        """Asks for a video; returns when it was accepted, also by an admission that was restarted meanwhile."""
        return await self._submitter.submit(request, owner="")

    async def task(self, task_id: str) -> task_pb2.Task:
        """The task as it stands, with its events."""
        with _refusals():
            answer = await self._tasks.GetTask(admission_service_pb2.GetTaskRequest(task_id=task_id), timeout=_CALL_TIMEOUT_S)
        return answer.task

    async def cancel(self, task_id: str) -> task_pb2.Task:
        """Cancels a task; returns it as it stands afterwards."""
        with _refusals():
            answer = await self._tasks.CancelTask(admission_service_pb2.CancelTaskRequest(task_id=task_id), timeout=_CALL_TIMEOUT_S)
        return answer.task

    async def snapshot(self) -> operator_service_pb2.GetSnapshotResponse:
        """Lanes, queues and the degraded pool at one instant."""
        with _refusals():
            return await self._operator.GetSnapshot(operator_service_pb2.GetSnapshotRequest(), timeout=_CALL_TIMEOUT_S)

    async def drain(self, lane_id: str, *, resume: bool) -> operator_service_pb2.LaneSnapshot:
        """Gives a lane no more work, or work again; the lane afterwards."""
        request = operator_service_pb2.DrainLaneRequest(lane_id=lane_id, resume=resume)
        with _refusals():
            return (await self._operator.DrainLane(request, timeout=_CALL_TIMEOUT_S)).lane

    async def set_fallback(self, model: str, *, enabled: bool) -> operator_service_pb2.QueueSnapshot:
        """Sends a model to the pool, or no longer; its queue afterwards."""
        request = operator_service_pb2.SetFallbackRequest(model=model, enabled=enabled)
        with _refusals():
            return (await self._operator.SetFallback(request, timeout=_CALL_TIMEOUT_S)).queue

    async def import_task(self, parts: Callable[[], AsyncGenerator[operator_service_pb2.ImportTaskRequest, None]]) -> bool:
        """Takes over what `parts` gives, from the beginning again after a break; False: a task of this id was there.

        What `parts` raises ends the call, and nothing is stored.
        """
        breaks = _Breaks(self._patience_s, self._listener)
        while True:
            call = self._operator.ImportTask(timeout=_IMPORT_TIMEOUT_S)
            try:
                async with aclosing(parts()) as sent:
                    await _send_all(call, sent)
                return (await call).outcome != operator_service_pb2.IMPORT_OUTCOME_ALREADY_THERE
            except grpc.RpcError as error:
                breaks.forgive(_unless_torn(service_error(error)))
            finally:
                call.cancel()
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def watch(self, task_id: str) -> AsyncGenerator[task_pb2.Task, None]:
        """The task now and after every change, to its terminal state; `events` are those recorded since the one before.

        Goes on by itself after a break of at most the patience; no event is told twice.
        """
        request = admission_service_pb2.WatchTaskRequest(task_id=task_id)
        answers = self._resumed(lambda: self._tasks.WatchTask(request, timeout=_WATCH_TIMEOUT_S), request)
        async with aclosing(answers):
            async for answer in answers:
                answer.task.events.extend(answer.events)
                yield answer.task
                if answer.task.state in TERMINAL:
                    return
        # It ends so when the task is deleted: then this says that there is none.
        await self.task(task_id)
        raise _CUT_SHORT

    async def events(self, request: operator_service_pb2.WatchEventsRequest) -> AsyncGenerator[task_pb2.TaskEvent, None]:
        """What was recorded, in order, from the request's sequence on; goes on by itself after a break, without a gap."""
        answers = self._resumed(lambda: self._operator.WatchEvents(request, timeout=_WATCH_TIMEOUT_S), request)
        async with aclosing(answers):
            async for answer in answers:
                request.only_new = False
                for event in answer.events:
                    yield event

    async def _resumed(self, call: Callable[[], _Stream[_Answer]], request: _Resumable) -> AsyncGenerator[_Answer, None]:
        """The answers of a stream that ends in order; after a break, of the next one, which begins behind the last answer."""
        breaks = _Breaks(self._patience_s, self._listener)
        while True:
            stream = call()
            try:
                async for answer in stream:
                    breaks.over(request.after_sequence)
                    # Before it is handed on: whoever takes it has it.
                    request.after_sequence = max(request.after_sequence, answer.last_sequence)
                    yield answer
                return
            except grpc.RpcError as error:
                told = service_error(error)
                if _is_recycled(told):
                    continue
                breaks.forgive(told)
            finally:
                stream.cancel()
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def read_video(self, task_id: str, write: Callable[[bytes], object]) -> None:
        """Hands the video of a done task to `write`, chunk by chunk in order; goes on at the same byte after a break."""
        request = admission_service_pb2.ReadResultRequest(task_id=task_id, file=admission_service_pb2.RESULT_FILE_VIDEO)
        breaks = _Breaks(self._patience_s, self._listener)
        total: int | None = None
        while True:
            call = self._tasks.ReadResult(request, timeout=_READ_TIMEOUT_S)
            try:
                async for answer in call:
                    breaks.over(0)
                    total = answer.total_bytes if total is None else total
                    await asyncio.to_thread(write, answer.chunk)
                    request.offset += len(answer.chunk)
                if total is not None and request.offset >= total:
                    return
                breaks.forgive(_CUT_SHORT)
            except grpc.RpcError as error:
                breaks.forgive(service_error(error))
            finally:
                call.cancel()
            await asyncio.sleep(_RETRY_PAUSE_S)


class _Breaks:
    """How long a stream has been broken, and who is told."""

    def __init__(self, patience_s: float, listener: Listener | None) -> None:
        self._patience_s = patience_s
        self._listener = listener
        self._broken_at_s: float | None = None

    def over(self, after_sequence: int) -> None:
        """Something came."""
        if self._broken_at_s is not None and self._listener is not None:
            self._listener.resumed(after_sequence)
        self._broken_at_s = None

    def forgive(self, error: ServiceError) -> None:
        """Raises the error unless trying again may help."""
        if error.code != ErrorCode.SERVICE_UNAVAILABLE:
            raise error
        now_s = asyncio.get_running_loop().time()
        if self._broken_at_s is None:
            self._broken_at_s = now_s
            if self._patience_s > 0 and self._listener is not None:
                self._listener.broken(error)
        if now_s - self._broken_at_s >= self._patience_s:
            raise error


async def _send_all(
    call: grpc.aio.StreamUnaryCall[operator_service_pb2.ImportTaskRequest, operator_service_pb2.ImportTaskResponse],
    parts: AsyncIterator[operator_service_pb2.ImportTaskRequest],
) -> None:
    """Sends every part, or those that come before the answer: that tells what became of it."""
    try:
        async for part in parts:
            await call.write(part)
        await call.done_writing()
    except (grpc.RpcError, asyncio.InvalidStateError):
        return


def _unless_torn(error: ServiceError) -> ServiceError:
    """An answer that comes while parts are being sent is sometimes lost in gRPC, which then says `internal`: asked again, it comes."""
    return _CUT_SHORT if error.metadata.get("grpc_status") == "internal" else error


def _is_recycled(error: ServiceError) -> bool:
    """The stream was ended because of its age, by admission or by its own deadline; nothing is wrong."""
    return error.code == ErrorCode.STREAM_RECYCLED or error.metadata.get("grpc_status") == "deadline_exceeded"


@asynccontextmanager
async def admission_client(
    address: str,
    *,
    credentials: CallerCredentials = OPEN_CALLER,
    patience_s: float = PATIENCE_S,
    listener: Listener | None = None,
) -> AsyncIterator[AdmissionClient]:
    """A client of the admission at `host:port`, whose channel is closed afterwards."""
    async with create_channel(address, credentials) as channel:
        yield AdmissionClient(channel, patience_s=patience_s, listener=listener)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise service_error(error) from error


async def last_state(client: AdmissionClient, task_id: str, on_change: Callable[[task_pb2.Task], object]) -> task_pb2.Task:
    """Follows a task to its end, telling every change; returns it as it ended."""
    async with aclosing(client.watch(task_id)) as changes:
        async for task in changes:
            on_change(task)
    return task
