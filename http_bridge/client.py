"""Admission as the bridge sees it: one channel, every call with a timeout and one kind of error."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1 import admission_service_pb2_grpc
from warmlane.admission.v1.task_pb2 import Task, TaskState

from http_bridge.access_client import AccessClient
from http_bridge.calls import CALL_TIMEOUT_S, answer
from http_bridge.gathering import GatheringLine
from http_bridge.operator_client import OperatorClient
from http_bridge.task_watch import watch_task
from runtime.credentials import OPEN_CALLER, CallerCredentials
from runtime.handshakes import told_handshakes
from runtime.rpc import create_channel
from runtime.submitter import Patience, Submitter
from runtime.traces.rpc import TraceChannel

if TYPE_CHECKING:
    from warmlane.generation.v1.generation_pb2 import GenerationRequest

    from runtime.errors import ServiceError

_LOG = structlog.get_logger()

# A list of models is good without limits: nobody waits for those for long.
_LIMITS_TIMEOUT_S = 2.0


class AdmissionClient:
    """One channel to admission, for the life of the bridge.

    Every method raises `runtime.errors.ServiceError`: what admission refused, or `service_unavailable` when it is out of reach.

    Attributes:
        access: sessions, admin calls, rates; from `open` on.
        operator: what the controller sees; from `open` on.
    """

    access: AccessClient
    operator: OperatorClient

    def __init__(
        self,
        address: str,
        *,
        credentials: CallerCredentials = OPEN_CALLER,
        carries_traces: bool = False,
        patience: Patience | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keeps the address, `host:port`, and what is shown there; `open` connects. `patience` is for submissions, measured by `now_s`.
        With `carries_traces` every call says in which trace it is made."""
        self._address = address
        self._credentials = credentials
        self._carries_traces = carries_traces
        self._opened = AsyncExitStack()
        self._patience = patience or Patience()
        self._now_s = now_s

    async def open(self) -> None:
        """Makes the channel in the running loop; the connection itself is made, and made again, when it is needed."""
        made = create_channel(self._address, self._credentials)
        channel = await self._opened.enter_async_context(TraceChannel(made) if self._carries_traces else made)
        await self._opened.enter_async_context(told_handshakes(channel, self._address, self._credentials))
        self._admission = admission_service_pb2_grpc.AdmissionServiceStub(channel)
        self.access = AccessClient(channel)
        self.operator = OperatorClient(channel)
        line = GatheringLine(channel, now_s=self._now_s)
        self._opened.push_async_callback(line.close)
        self._submitter = Submitter(line, patience=self._patience, now_s=self._now_s, on_repeat=_log_repeat)

    async def close(self) -> None:
        """Ends every call and the connection."""
        await self._opened.aclose()

    async def submit_task(self, request: GenerationRequest, owner: str, key: str = "") -> str:
        """Asks for a video; returns the task's id when it is accepted, by an admission that was restarted meanwhile if need be.

        Cancelling the coroutine gives the held place back. `key` is the client's own key of the request.
        """
        return (await self._submitter.submit(request, owner, key)).task_id

    async def get_task(self, task_id: str, *, only_owner: str = "") -> Task:
        """The task with its events. Here and below: with `only_owner`, another owner's task is one that is not there."""
        message = admission.GetTaskRequest(task_id=task_id, only_owner=only_owner)
        return (await answer(self._admission.GetTask(message, timeout=CALL_TIMEOUT_S))).task

    def watch_task(
        self, task_id: str, after_sequence: int = 0, *, only_owner: str = ""
    ) -> AsyncGenerator[admission.WatchTaskResponse, None]:
        """The task now and after every change, with the events behind this sequence. Ends after the terminal state and its last event, or
        when the task is deleted. Raises `stream_recycled` when it has lived long enough: then watch again. Closing it ends the call."""
        return watch_task(self._admission, task_id, after_sequence, only_owner)

    async def list_done_tasks(
        self, *, page: int, page_size: int, sort: admission.TaskSort.ValueType, model: str, only_owner: str = ""
    ) -> tuple[Sequence[Task], int]:
        """One page of the done tasks and how many there are; `model` empty means all."""
        message = admission.ListTasksRequest(
            page=page, page_size=page_size, sort=sort, model=model, states=[TaskState.TASK_STATE_DONE], only_owner=only_owner
        )
        reply = await answer(self._admission.ListTasks(message, timeout=CALL_TIMEOUT_S))
        return reply.tasks, reply.total

    async def recent_tasks(self, limit: int) -> Sequence[Task]:
        """The newest tasks, whatever their state, newest first."""
        message = admission.ListTasksRequest(page=1, page_size=limit, sort=admission.TaskSort.TASK_SORT_CREATED_AT)
        return (await answer(self._admission.ListTasks(message, timeout=CALL_TIMEOUT_S))).tasks

    async def list_models(self) -> Sequence[admission.Model]:
        """The models with what fits on the lanes."""
        return (await answer(self._admission.ListModels(admission.ListModelsRequest(), timeout=_LIMITS_TIMEOUT_S))).models

    async def cancel_task(self, task_id: str, *, only_owner: str = "") -> Task:
        """Cancels; the task afterwards."""
        message = admission.CancelTaskRequest(task_id=task_id, only_owner=only_owner)
        return (await answer(self._admission.CancelTask(message, timeout=CALL_TIMEOUT_S))).task

    async def delete_task(self, task_id: str, *, only_owner: str = "") -> None:
        """Forgets the task and removes its files."""
        message = admission.DeleteTaskRequest(task_id=task_id, only_owner=only_owner)
        await answer(self._admission.DeleteTask(message, timeout=CALL_TIMEOUT_S))


def _log_repeat(error: ServiceError) -> None:
    _LOG.info("submission_repeated", reason=error.message)
