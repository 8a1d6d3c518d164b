"""POST /generate and /generate_direct: one video or image, accepted or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request

from http_bridge.auth import Caller, GeneratingCallerDependency, KeyCallerDependency, sharer
from http_bridge.bodies import Pace, read_body
from http_bridge.context import Bridge, bridge_of
from http_bridge.idempotency import IdempotencyKeyDependency, named_as_header
from http_bridge.intake import ImageAsked, take_in
from http_bridge.lookout import Lookout
from http_bridge.request_schema import request_body
from http_bridge.schemas import AcceptedReply
from runtime.errors import ServiceError
from runtime.traces import names
from runtime.traces.current import annotate
from runtime.wire import request_to_message

if TYPE_CHECKING:
    from warmlane.generation.v1.generation_pb2 import GenerationRequest

router = APIRouter(tags=["generate"])

_Accepted = TypeVar("_Accepted")


@router.post("/generate", status_code=202, openapi_extra={"requestBody": request_body()})
async def generate(request: Request, caller: GeneratingCallerDependency, key: IdempotencyKeyDependency) -> AcceptedReply:
    """Asks for a video. 202 means that it is on disk and will be done, or fail with a reason. A request for an image goes to the server
    of the image models, where one is set (else 503 `model_unavailable`); 202 then means what it means there.

    Where no lane of the model is ready the reply is held, at most 30 s; hang up to give the place back. With an Idempotency-Key the request
    may be repeated: it gives the same task as long as that is kept.
    """
    return await _submit(request, caller, key)


@router.post("/generate_direct", status_code=202, openapi_extra={"requestBody": request_body()})
async def generate_direct(request: Request, caller: KeyCallerDependency, key: IdempotencyKeyDependency) -> AcceptedReply:
    """As /generate, for other backends: the API key only."""
    return await _submit(request, caller, key)


async def _submit(request: Request, caller: Caller, key: str) -> AcceptedReply:
    bridge = bridge_of(request)
    async with AsyncExitStack() as held:
        wanted = await _wanted(request, bridge, held, sharer(request, caller))
        if isinstance(wanted, bytearray):
            assert bridge.images is not None  # noqa: S101 - for the type checker: without them no image is taken in
            return await _accepted(request, bridge, bridge.images.generate(wanted, caller.owner, key))
    try:
        task_id = await _accepted(request, bridge, bridge.client.submit_task(wanted, caller.owner, key))
    except ServiceError as error:
        raise named_as_header(error) from error
    annotate(names.TASK, task_id)
    return AcceptedReply(task_id=task_id, status="pending")


async def _wanted(request: Request, bridge: Bridge, held: AsyncExitStack, name: str) -> GenerationRequest | bytearray:
    """What the body asks for: a video, or the body itself where it asks for an image.

    A video's body, its images and their place in memory are not kept while the request is held. An image's body changes from a place of
    videos to one of images, which is kept until it is sent: a slow image server takes no place from videos.
    """
    limits = bridge.settings
    async with bridge.large_bodies.room(name) as room:
        pace = Pace(limits.min_body_rate_bytes_s) if limits.min_body_rate_bytes_s else None
        body = await read_body(request, room, limit_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s, pace=pace)
        wanted = await take_in(bridge, body, name)
        if not isinstance(wanted, ImageAsked):
            return request_to_message(wanted)
        assert bridge.images is not None  # noqa: S101 - for the type checker, as above
        await (await held.enter_async_context(bridge.images.large_bodies.room(name))).ensure(len(body))
        return body


async def _accepted(request: Request, bridge: Bridge, submission: Coroutine[Any, Any, _Accepted]) -> _Accepted:
    """Waits for the answer; gives the place back when the client leaves or the bridge stops."""
    lookout = Lookout(request, bridge.stopping)
    try:
        return await submission
    except asyncio.CancelledError:
        lookout.raise_reason()
        raise
    finally:
        await lookout.close()
