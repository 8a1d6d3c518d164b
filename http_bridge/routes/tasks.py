"""GET /status and POST /cancel: one task."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request

from http_bridge.auth import CallerDependency, visible_to
from http_bridge.context import bridge_of
from http_bridge.convert import status_reply, task_status
from http_bridge.schemas import CancelReply, ErrorReply, StatusReply
from runtime.errors import ErrorCode, ServiceError

router = APIRouter(tags=["tasks"])

# Ours are 32 hex digits, those of tasks that were taken over anything like this; what does not look like an id is not worth a call.
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


# A coroutine, as every dependency here: FastAPI would call a function in a thread, which costs more than the call to admission.
async def _likely_id(task_id: str) -> str:
    if not _ID.fullmatch(task_id):
        raise ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="There is no such task.")
    return task_id


TaskIdDependency = Annotated[str, Depends(_likely_id)]
"""The `task_id` of the path; 404 when it can be none."""


@router.get("/status/{task_id}")
async def status(request: Request, caller: CallerDependency, task_id: TaskIdDependency) -> StatusReply:
    """The task as it stands."""
    bridge = bridge_of(request)
    return status_reply(await bridge.client.get_task(task_id, only_owner=visible_to(bridge, caller)), bridge.links)


@router.post("/cancel/{task_id}", responses={501: {"model": ErrorReply, "description": "The server of the image models cannot cancel."}})
async def cancel(request: Request, caller: CallerDependency, task_id: TaskIdDependency) -> CancelReply:
    """Cancels: terminal at once, unless the result was there first. A cancelled task is `failed` with the code `cancelled`."""
    bridge = bridge_of(request)
    task = await bridge.client.cancel_task(task_id, only_owner=visible_to(bridge, caller))
    return CancelReply(task_id=task.task_id, status=task_status(task))
