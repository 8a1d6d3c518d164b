"""A steady load on both doors, as honest clients make it: keys, repeats after a lost reply, cancels, watchers; keeps what it saw."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub
from warmlane.generation.v1.generation_pb2 import GenerationRequest

from runtime.errors import ErrorCode
from runtime.rpc import create_channel
from runtime.rpc_errors import service_error
from tests.harness.http import NO_AUTHORITIES
from tests.harness.light_stack import LightStack

# A request may be held 30 s; a stopped admission answers when it goes on.
_SUBMIT_TIMEOUT_S = 45.0
# A client that got no answer asks again with the same key for so long.
_PATIENCE_S = 150.0
_AGAIN_S = 0.3
_SNAPSHOT_EVERY_S = 0.05

GRPC, HTTP = "grpc", "http"


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One thing that a client wants, however often it asks for it.

    Attributes:
        label: travels as the negative prompt, so that the task can be found even when no reply came.
        key: idempotency key; empty: none, and then it is asked for once.
        task_ids: every task id that was told for it.
        refusal: cause or code of the last refusal.
    """

    door: str
    model: str
    label: str
    key: str
    prompt: str
    task_ids: set[str] = field(default_factory=set)
    refusal: str = ""

    @property
    def task_id(self) -> str:
        """The task, once it was accepted."""
        return next(iter(self.task_ids), "")

    def body(self, **changes: object) -> dict[str, Any]:
        """The request; smallest clip there is."""
        size: dict[str, Any] = {"width": 256, "height": 256, "num_frames": 1, "seed": 1}
        return {"model": self.model, "prompt": self.prompt, "negative_prompt": self.label, **size, **changes}


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the clients saw.

    Attributes:
        counts: by what happened.
        violations: sentences, one for everything that must not be.
        watched: recorded events that a watcher was told of a task, in the order of their coming, once its stream had ended by itself.
        max_depth: deepest waiting room in any snapshot.
    """

    requests: list[Request] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    watched: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    max_depth: int = 0

    def accepted(self) -> set[str]:
        """Every task that a client was told of."""
        return {task_id for request in self.requests for task_id in request.task_ids}


class Load:
    """Clients that go on until `stop`. Use as an async context manager; leaving ends everything at once."""

    def __init__(self, stack: LightStack, rng: random.Random, *, clients: int = 6, pause_s: float = 1.2, render_s: float = 0.2) -> None:
        """Prepares the load.

        Args:
            stack: what is loaded.
            rng: every choice is drawn from it.
            clients: asking at a time.
            pause_s: mean time between two requests of a client.
            render_s: mean time of a render.
        """
        self.seen = Seen()
        self._stack = stack
        self._rng = rng
        self._clients = clients
        self._pause_s = pause_s
        self._render_s = render_s
        self._stopping = asyncio.Event()
        self._asking: list[asyncio.Task[None]] = []
        self._beside: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        """Starts the clients."""
        self._channel = create_channel(self._stack.grpc_address)
        self._admission = AdmissionServiceStub(self._channel)
        self._operator = OperatorServiceStub(self._channel)
        self._http = httpx.AsyncClient(
            verify=NO_AUTHORITIES, base_url=self._stack.http_url, headers={"X-API-Key": self._stack.api_key}, timeout=_SUBMIT_TIMEOUT_S
        )
        self._asking = [asyncio.create_task(self._client(), name=f"client-{number}") for number in range(self._clients)]
        self._beside = [asyncio.create_task(self._look(), name="snapshots")]
        return self

    async def __aexit__(self, *error: object) -> None:
        """Ends everything that still runs."""
        for task in (*self._asking, *self._beside):
            task.cancel()
        await asyncio.gather(*self._asking, *self._beside, return_exceptions=True)
        await self._http.aclose()
        await self._channel.close()

    async def stop(self) -> None:
        """No new requests; returns when every client and every watcher has its answer. Raises what went wrong in one."""
        self._stopping.set()
        await asyncio.gather(*self._asking)
        _looking, *watching = self._beside
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.gather(*watching)

    async def _client(self) -> None:
        while not self._stopping.is_set():
            request = self._new()
            self.seen.requests.append(request)
            await self._ask_until_told(request)
            if request.task_id:
                await self._go_on_with(request)
            await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))

    def _new(self) -> Request:
        rng = self._rng
        return Request(
            door=rng.choice((GRPC, HTTP)),
            model=rng.choice(("anisora", "phr00t")),
            label=uuid.UUID(int=rng.getrandbits(128)).hex,
            key=uuid.UUID(int=rng.getrandbits(128)).hex if rng.random() < 0.85 else "",
            prompt=f"takes {rng.uniform(0.0, 2 * self._render_s):.2f}",
        )

    async def _ask_until_told(self, request: Request) -> None:
        """Asks again with the same key until an answer comes; without a key it asks once."""
        ends_s = time.monotonic() + _PATIENCE_S
        # Some clients hang up before the answer.
        timeout_s = self._rng.uniform(0.001, 0.2) if self._rng.random() < 0.1 else _SUBMIT_TIMEOUT_S
        while True:
            try:
                code = await self._ask(request, request.body(), timeout_s)
            except (TimeoutError, httpx.TransportError):
                code = "lost"
            timeout_s = _SUBMIT_TIMEOUT_S
            if code not in ("lost", ErrorCode.SERVICE_UNAVAILABLE):
                break
            self.seen.counts["replies_lost"] += 1
            if not request.key:
                code = "unknown"
                break
            if time.monotonic() > ends_s:
                self.seen.violations.append(f"no answer to {request.key} ({request.door}) in {_PATIENCE_S:g} s")
                break
            await asyncio.sleep(_AGAIN_S)
        self.seen.counts[code] += 1
        request.refusal = "" if code == "accepted" else code
        if code not in ("accepted", "unknown", "refused_depth", "refused_wait"):
            self.seen.violations.append(f"{request.door} answered {code} to {request.body()}")

    async def _ask(self, request: Request, body: dict[str, Any], timeout_s: float) -> str:
        """Asks once; `accepted` or the code of the refusal."""
        async with asyncio.timeout(timeout_s):
            return await (self._ask_grpc(request, body) if request.door == GRPC else self._ask_http(request, body))

    async def _ask_grpc(self, request: Request, body: dict[str, Any]) -> str:
        message = pb.SubmitTaskRequest(request=GenerationRequest(**body), owner="chaos", request_id=request.key)
        try:
            reply = await self._admission.SubmitTask(message, timeout=_SUBMIT_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            told = service_error(error)
            return f"refused_{told.metadata['cause']}" if told.code == ErrorCode.QUEUE_OVERLOADED else told.code
        request.task_ids.add(reply.task.task_id)
        return "accepted"

    async def _ask_http(self, request: Request, body: dict[str, Any]) -> str:
        headers = {"Idempotency-Key": request.key} if request.key else {}
        reply = await self._http.post("/generate", json=body, headers=headers)
        if reply.status_code == 202:
            request.task_ids.add(reply.json()["task_id"])
            return "accepted"
        detail = reply.json()["detail"]
        return f"refused_{detail['metadata']['cause']}" if detail["code"] == ErrorCode.QUEUE_OVERLOADED else str(detail["code"])

    async def _go_on_with(self, request: Request) -> None:
        dice = self._rng.random()
        if dice < 0.2 and request.key:
            await self._ask_until_told(request)
            self.seen.counts["keys_repeated"] += 1
        elif dice < 0.25 and request.key:
            await self._ask_for_another(request)
        elif dice < 0.4:
            await self._cancel(request)
        elif dice < 0.6:
            self._beside.append(asyncio.create_task(self._watch(request.task_id), name=f"watch-{request.task_id}"))

    async def _ask_for_another(self, request: Request) -> None:
        """The same key with another body."""
        try:
            code = await self._ask(request, request.body(seed=2), _SUBMIT_TIMEOUT_S)
        except (TimeoutError, httpx.TransportError):
            return
        if code == ErrorCode.VALIDATION_ERROR:
            self.seen.counts["reused_keys_refused"] += 1
        elif code != ErrorCode.SERVICE_UNAVAILABLE:
            self.seen.violations.append(f"{request.door} answered {code} to the key {request.key} with another body")

    async def _cancel(self, request: Request) -> None:
        try:
            if request.door == GRPC:
                await self._admission.CancelTask(pb.CancelTaskRequest(task_id=request.task_id), timeout=10)
            else:
                (await self._http.post(f"/cancel/{request.task_id}")).raise_for_status()
        except (grpc.aio.AioRpcError, httpx.HTTPError):
            self.seen.counts["cancels_unanswered"] += 1
        else:
            self.seen.counts["cancels"] += 1

    async def _watch(self, task_id: str) -> None:
        """Watches to the end of the task, through every break; keeps the recorded events that it was told."""
        events: list[tuple[int, str]] = []
        after = 0
        while True:
            watch = pb.WatchTaskRequest(task_id=task_id, after_sequence=after)
            try:
                async for told in self._admission.WatchTask(watch):
                    events += [(event.sequence, event.event_type) for event in told.events]
                    after = max(after, told.last_sequence)
            except grpc.aio.AioRpcError as error:
                if service_error(error).code not in (ErrorCode.SERVICE_UNAVAILABLE, "stream_recycled"):
                    self.seen.violations.append(f"watching {task_id} ended with {service_error(error)!r}")
                    return
                await asyncio.sleep(_AGAIN_S)
            else:
                break
        self.seen.watched[task_id] = events
        self.seen.counts["watched_to_the_end"] += 1

    async def _look(self) -> None:
        """Reads snapshots all the time; the waiting room is never over its bound in any."""
        while True:
            try:
                snapshot: operators.GetSnapshotResponse = await self._operator.GetSnapshot(operators.GetSnapshotRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(_SNAPSHOT_EVERY_S)
                continue
            self.seen.counts["snapshots"] += 1
            degraded = snapshot.degraded
            self.seen.max_depth = max(self.seen.max_depth, degraded.depth)
            if degraded.depth > degraded.max_depth or degraded.max_depth != 25 or degraded.depth != degraded.held + degraded.rescued:
                self.seen.violations.append(f"a snapshot says {degraded}")
            await asyncio.sleep(_SNAPSHOT_EVERY_S)
