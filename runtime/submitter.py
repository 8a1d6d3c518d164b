"""Submits a request so that it is neither lost nor rendered twice when admission goes away while it is held."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.task_pb2 import Task, TaskState

from runtime.errors import ErrorCode, ServiceError
from runtime.rpc_errors import service_error

if TYPE_CHECKING:
    from warmlane.generation.v1.generation_pb2 import GenerationRequest

OWN_KEY_PREFIX = "warmlane-own:"
"""Begins the keys that are made here; the bridge refuses a client's key that begins so, and the two never meet."""

# Statuses that gRPC itself makes when a connection breaks under a call.
_BROKEN = frozenset({"unavailable", "cancelled", "aborted"})
# What an admission says of itself when it let the call in for nothing, or not at all.
_STARTING = "starting"
_LEAVING = frozenset({"stopping", "superseded"})
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may take on its way; seconds.

    Attributes:
        held_s: from its arrival to its acceptance, however many admissions hold it in turn; admission's own limit.
        reach_s: until some admission takes it in for the first time. A restarted one serves again within 2 s.
        answer_s: for the answer, beyond the time it is held.
        pause_s: between two tries, so that an admission that starts is not kept from it.
    """

    held_s: float = 30.0
    reach_s: float = 2.5
    answer_s: float = 10.0
    pause_s: float = 0.1


class ChannelLine:
    """The line over a channel, which its maker closes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Connects and submits over this channel."""
        self._channel = channel
        self._stub = AdmissionServiceStub(channel)

    async def connect(self, within_s: float) -> bool:
        """See Line."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(within_s):
                while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    await self._channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return True

    async def send(self, message: admission.SubmitTaskRequest, timeout_s: float) -> admission.SubmitTaskResponse:
        """See Line."""
        try:
            return await self._stub.SubmitTask(message, timeout=timeout_s)
        except grpc.RpcError as error:
            raise service_error(error) from error

    async def pause(self, seconds: float) -> None:
        """See Line."""
        await asyncio.sleep(seconds)


class Line(Protocol):
    """The way to admission."""

    async def connect(self, within_s: float) -> bool:
        """Waits for a connection; False when there is none in time."""
        ...

    async def send(self, message: admission.SubmitTaskRequest, timeout_s: float) -> admission.SubmitTaskResponse:
        """Submits once. Raises ServiceError."""
        ...

    async def pause(self, seconds: float) -> None:
        """Lets time pass."""
        ...


class Submitter:
    """Submits requests over a line, each as often as it takes, at most twice to an admission that dies with it.

    It sends a key of its own where the client gave none: an acceptance whose reply was lost is then found again.
    """

    def __init__(
        self, line: Line, *, patience: Patience, now_s: Callable[[], float], on_repeat: Callable[[ServiceError], None] | None = None
    ) -> None:
        """Measures time by `now_s`, which only rises; tells `on_repeat` why a request is about to be sent again."""
        self._line = line
        self._patience = patience
        self._now_s = now_s
        self._on_repeat = on_repeat

    async def submit(self, request: GenerationRequest, owner: str, key: str = "") -> Task:
        """The accepted task. Cancelling gives the held place back.

        Raises:
            ServiceError: admission refused it, or was away for too long.
        """
        begun_s = self._now_s()
        message = admission.SubmitTaskRequest(request=request, owner=owner, request_id=key or _own_key(), abandon=not key)
        answer = await self._taken_in(message, begun_s)
        if not key and _is_abandoned(answer):
            # Admission saw the connection break and took the caller for gone. No one else knows of that task, and no lane had it.
            message.request_id = _own_key()
            answer = await self._taken_in(message, begun_s)
            if _is_abandoned(answer):
                # Twice. It must not go on for ever, and a task that is cancelled is no acceptance.
                raise _away()
        return answer.task

    async def _taken_in(self, message: admission.SubmitTaskRequest, begun_s: float) -> admission.SubmitTaskResponse:
        """The answer of the first admission that lives to give one."""
        is_repeated = is_known = False
        until_s = begun_s + self._patience.reach_s
        while True:
            if not await self._line.connect(max(0.0, until_s - self._now_s())):
                raise _away()
            passed_s = self._now_s() - begun_s
            if is_known or passed_s >= self._patience.pause_s:
                # Never 0 for a key that was sent before: with 0 admission may take it for a new one.
                message.waited.FromMilliseconds(max(1, round(min(passed_s, self._patience.held_s) * 1000)))
            is_known = True
            try:
                return await self._line.send(message, max(0.0, self._patience.held_s + self._patience.answer_s - passed_s))
            except ServiceError as error:
                if _is_broken(error) and not is_repeated:
                    # Once: a request that itself brings admission down must not do so for ever.
                    is_repeated = True
                    until_s = begun_s + self._patience.held_s
                elif error.metadata.get("admission") in _LEAVING:
                    until_s = begun_s + self._patience.held_s
                elif error.metadata.get("admission") != _STARTING:
                    raise
                if self._now_s() + self._patience.pause_s >= until_s:
                    raise _away() from error
                if self._on_repeat is not None:
                    self._on_repeat(error)
            await self._line.pause(self._patience.pause_s)


def _own_key() -> str:
    return f"{OWN_KEY_PREFIX}{secrets.token_hex(16)}"


def _is_abandoned(answer: admission.SubmitTaskResponse) -> bool:
    return answer.is_duplicate and answer.task.state == TaskState.TASK_STATE_CANCELLED


def _is_broken(error: ServiceError) -> bool:
    return error.code == ErrorCode.SERVICE_UNAVAILABLE and error.metadata.get("grpc_status") in _BROKEN


def _away() -> ServiceError:
    return ServiceError(
        code=ErrorCode.SERVICE_UNAVAILABLE,
        message="Admission is away; the request was not accepted.",
        metadata={"grpc_status": "unavailable"},
        retry_after_s=_RETRY_AFTER_S,
    )
