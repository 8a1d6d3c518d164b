"""Admission as the command line sees it: every call with a timeout, every refusal as a ServiceError, breaks of a stream repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager

import grpc
from warmlane.admission.v1 import (
    admission_service_pb2,
    admission_service_pb2_grpc,
    operator_service_pb2,
    operator_service_pb2_grpc,
    task_pb2,
)
from warmlane.generation.v1 import generation_pb2

from runtime.errors import ErrorCode, ServiceError
from runtime.rpc import create_channel, service_error

_CALL_TIMEOUT_S = 5.0
# The longest wait for a place in the degraded pool is 30 s; a deadline under 35 s would cut it short.
_SUBMIT_TIMEOUT_S = 40.0
_UPLOAD_TIMEOUT_S = 60.0
# A stream is opened anew after this time, so that no call lasts for ever.
_STREAM_TIMEOUT_S = 300.0
_RETRY_PAUSE_S = 0.5
_CHUNK_BYTES = 256 * 1024

_CUT_SHORT = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The service ended its answer too early.")

TERMINAL = frozenset({task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED})


class AdmissionClient:
    """Calls admission over a channel that its maker closes. Every method raises ServiceError."""

    def __init__(self, channel: grpc.aio.Channel, *, patience_s: float = 60.0) -> None:
        """Keeps the channel.

        Args:
            channel: to admission.
            patience_s: how long a stream may stay broken before its reader is told; an admission that restarts is back by then.
        """
        self._tasks = admission_service_pb2_grpc.AdmissionServiceStub(channel)
        self._operator = operator_service_pb2_grpc.OperatorServiceStub(channel)
        self._patience_s = patience_s

    async def upload(self, content: bytes) -> generation_pb2.InputImage:
        """Brings an image in; the answer names it in a request."""

        async def chunks() -> AsyncIterator[admission_service_pb2.UploadInputRequest]:
            for start in range(0, len(content), _CHUNK_BYTES):
                yield admission_service_pb2.UploadInputRequest(chunk=content[start : start + _CHUNK_BYTES])

        with _refusals():
            answer = await self._tasks.UploadInput(chunks(), timeout=_UPLOAD_TIMEOUT_S)
        return answer.image

    async def submit(self, request: generation_pb2.GenerationRequest) -> task_pb2.Task:
        """Asks for a video; returns when it was accepted."""
        with _refusals():
            answer = await self._tasks.SubmitTask(admission_service_pb2.SubmitTaskRequest(request=request), timeout=_SUBMIT_TIMEOUT_S)
        return answer.task

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

    async def watch(self, task_id: str) -> AsyncIterator[task_pb2.Task]:
        """The task now and after every change, to its terminal state; goes on by itself after a break of at most the patience."""
        request = admission_service_pb2.WatchTaskRequest(task_id=task_id)
        breaks = _Breaks(self._patience_s)
        while True:
            call = self._tasks.WatchTask(request, timeout=_STREAM_TIMEOUT_S)
            try:
                async for answer in call:
                    breaks.over()
                    yield answer.task
                    if answer.task.state in TERMINAL:
                        return
                breaks.forgive(_CUT_SHORT)
            except grpc.RpcError as error:
                breaks.forgive(service_error(error))
            finally:
                call.cancel()
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def read_video(self, task_id: str, write: Callable[[bytes], object]) -> None:
        """Hands the video of a done task to `write`, chunk by chunk in order; goes on at the same byte after a break."""
        request = admission_service_pb2.ReadResultRequest(task_id=task_id, file=admission_service_pb2.RESULT_FILE_VIDEO)
        breaks = _Breaks(self._patience_s)
        total: int | None = None
        while True:
            call = self._tasks.ReadResult(request, timeout=_STREAM_TIMEOUT_S)
            try:
                async for answer in call:
                    breaks.over()
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
    """How long a stream has been broken."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._last_contact_s = asyncio.get_running_loop().time()

    def over(self) -> None:
        """Something came."""
        self._last_contact_s = asyncio.get_running_loop().time()

    def forgive(self, error: ServiceError) -> None:
        """Raises the error unless trying again may help."""
        waited_s = asyncio.get_running_loop().time() - self._last_contact_s
        if error.code != ErrorCode.SERVICE_UNAVAILABLE or waited_s >= self._patience_s:
            raise error


@asynccontextmanager
async def admission_client(address: str, *, patience_s: float = 60.0) -> AsyncIterator[AdmissionClient]:
    """A client of the admission at `host:port`, whose channel is closed afterwards."""
    async with create_channel(address) as channel:
        yield AdmissionClient(channel, patience_s=patience_s)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise service_error(error) from error


async def last_state(client: AdmissionClient, task_id: str, on_change: Callable[[task_pb2.Task], object]) -> task_pb2.Task:
    """Follows a task to its end, telling every change; returns it as it ended."""
    async with aclosing(client.watch(task_id)) as changes:  # type: ignore[type-var]
        async for task in changes:
            on_change(task)
    return task
