"""Many callers at once, on both doors: what each was answered and after how long, by the caller's own monotonic clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import grpc
import grpc.aio
import httpx
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.generation.v1.generation_pb2 import GenerationRequest

from runtime.rpc import create_channel
from runtime.rpc_errors import service_error
from tests.harness.light_stack import LightStack

ACCEPTED = "accepted"
_TIMEOUT_S = 45.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one caller was told.

    Attributes:
        code: `accepted` or the code of the refusal.
        cause: of `queue_overloaded`; empty otherwise.
        status: gRPC status name or HTTP status.
        metadata: facts of the refusal, with the names of the door.
        retry_after_s: None when nothing was said.
        elapsed_s: at the caller.
    """

    code: str
    status: str
    elapsed_s: float
    cause: str = ""
    task_id: str = ""
    metadata: Mapping[str, object]
    retry_after_s: float | None = None


def body(prompt: str, model: str = "anisora") -> dict[str, object]:
    """The smallest clip."""
    return {"model": model, "prompt": prompt, "width": 256, "height": 256, "num_frames": 1, "seed": 1}


def message(prompt: str, model: str = "anisora") -> GenerationRequest:
    """The same as a message."""
    return GenerationRequest(model=model, prompt=prompt, width=256, height=256, num_frames=1, seed=1)


class GrpcCaller:
    """Callers over gRPC on one channel. Use as an async context manager."""

    def __init__(self, stack: LightStack) -> None:
        """Nothing is opened yet."""
        self._stack = stack

    async def __aenter__(self) -> GrpcCaller:
        """Opens the channel and warms it up."""
        self._channel = create_channel(self._stack.grpc_address)
        self.admission = AdmissionServiceStub(self._channel)
        self.operator = OperatorServiceStub(self._channel)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def until_serving(self, *, timeout_s: float = 20.0) -> None:
        """Returns when admission answers on this channel."""
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    await self.snapshot()
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.005)
                else:
                    return

    async def until_held(self, count: int, *, timeout_s: float = 10.0) -> None:
        """Returns when exactly so many requests are held."""
        async with asyncio.timeout(timeout_s):
            while (await self.snapshot()).degraded.held != count:  # noqa: ASYNC110 (another process decides)
                await asyncio.sleep(0.005)

    async def snapshot(self) -> operators.GetSnapshotResponse:
        """What admission sees."""
        return await self.operator.GetSnapshot(operators.GetSnapshotRequest(), timeout=5)

    async def task(self, task_id: str) -> task_pb2.Task:
        """The task with its events."""
        return (await self.admission.GetTask(pb.GetTaskRequest(task_id=task_id), timeout=10)).task

    async def until(self, task_id: str, condition: Callable[[task_pb2.Task], bool], *, timeout_s: float = 30.0) -> task_pb2.Task:
        """The task, when it fulfils the condition."""
        ends_s = time.monotonic() + timeout_s
        while not condition(task := await self.task(task_id)):
            assert time.monotonic() < ends_s, task
            await asyncio.sleep(0.05)
        return task

    async def ask(self, prompt: str = "a meadow", *, owner: str = "", request_id: str = "", model: str = "anisora") -> Answer:
        """Asks once."""
        request = pb.SubmitTaskRequest(request=message(prompt, model), owner=owner, request_id=request_id)
        began_s = time.monotonic()
        try:
            reply = await self.admission.SubmitTask(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            elapsed_s, told = time.monotonic() - began_s, service_error(error)
            return Answer(
                code=told.code,
                cause=told.metadata.get("cause", ""),
                status=error.code().name,
                metadata=told.metadata,
                retry_after_s=told.retry_after_s,
                elapsed_s=elapsed_s,
            )
        return Answer(code=ACCEPTED, status="OK", elapsed_s=time.monotonic() - began_s, metadata={}, task_id=reply.task.task_id)


class HttpCaller:
    """Callers of the bridge, each on a connection of its own. Use as an async context manager."""

    def __init__(self, stack: LightStack) -> None:
        """Nothing is opened yet."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        headers = {"X-API-Key": stack.api_key}
        self.client = httpx.AsyncClient(base_url=stack.http_url, headers=headers, timeout=_TIMEOUT_S, limits=limits)

    async def __aenter__(self) -> HttpCaller:
        """Itself."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Closes the connections."""
        await self.client.aclose()

    async def ask(self, prompt: str = "a meadow", *, key: str = "", model: str = "anisora") -> Answer:
        """Asks once."""
        began_s = time.monotonic()
        reply = await self.client.post("/generate", json=body(prompt, model), headers={"Idempotency-Key": key} if key else {})
        elapsed_s = time.monotonic() - began_s
        content = reply.json()
        if reply.status_code == 202:
            return Answer(code=ACCEPTED, status="202", elapsed_s=elapsed_s, metadata={}, task_id=content["task_id"])
        detail = content["detail"]
        metadata = detail.get("metadata", {})
        after = reply.headers.get("Retry-After")
        return Answer(
            code=detail["code"],
            cause=metadata.get("cause", ""),
            status=str(reply.status_code),
            metadata=metadata,
            retry_after_s=None if after is None else float(after),
            elapsed_s=elapsed_s,
        )


class DepthWatch:
    """Reads the depth of the waiting room all the time, in a task of its own. Use as an async context manager."""

    def __init__(self, stack: LightStack, every_s: float = 0.02) -> None:
        """Reads every so many seconds."""
        self.depths: list[int] = []
        self._stack = stack
        self._every_s = every_s

    async def __aenter__(self) -> DepthWatch:
        """Begins."""
        self._reading = asyncio.create_task(self._read(), name="depth-watch")
        return self

    async def __aexit__(self, *error: object) -> None:
        """Ends."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        async with GrpcCaller(self._stack) as caller:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    self.depths.append((await caller.snapshot()).degraded.depth)
                await asyncio.sleep(self._every_s)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
