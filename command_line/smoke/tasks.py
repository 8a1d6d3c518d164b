"""Checks of what can be done with a task: repeated requests, cancel, delete."""

from __future__ import annotations

import uuid

from command_line.smoke.files import clips_of_each_model
from command_line.smoke.outcome import CheckFailedError
from command_line.smoke.visit import Visit, small_clip
from runtime.rules.catalogue import MODELS

_VERSION = "Compare the bridge's version; look at admission's log."
_MODEL = next(iter(MODELS))
_HEADER = "Idempotency-Key"


async def idempotency(visit: Visit) -> str:
    """A request that is repeated under its key makes one task; another request under it is refused."""
    headers, body = {_HEADER: uuid.uuid4().hex}, small_clip(_MODEL, seed=1)
    first = await visit.accepted(body, headers=headers)
    second = await visit.accepted(body, headers=headers)
    if first != second:
        raise CheckFailedError(f"the same request with the same {_HEADER} made two tasks", _VERSION)
    other = await visit.submit({**body, "seed": 2}, headers=headers)
    detail = other.refusal(422, "validation_error", _VERSION)
    if _HEADER not in str(detail.get("metadata")):
        raise CheckFailedError(f"the 422 for another request under one {_HEADER} does not name the header", _VERSION)
    await visit.take_away([first])
    return "one task for a repeated request; 422 for another one under its key"


async def cancel(visit: Visit) -> str:
    """A cancelled task ends, and says the same again."""
    task_id = await visit.accepted(small_clip(_MODEL, seed=3))
    told = [(await visit.call("POST", f"/cancel/{task_id}")).expect(200) for _ in range(2)]
    if told[0] != told[1] or told[0].get("task_id") != task_id:
        raise CheckFailedError(f"POST /cancel answers {told[0]} and then {told[1]}", _VERSION)
    status = (await visit.call("GET", f"/status/{task_id}")).expect(200)
    await visit.take_away([task_id])
    if (status.get("status"), told[0].get("status")) == ("done", "done"):
        return "it was done before it could be cancelled; the answers agree"
    if status.get("status") != "failed" or status.get("error_code") != "cancelled" or told[0].get("status") != "failed":
        raise CheckFailedError(f"after POST /cancel the task is {status.get('status')} ({status.get('error_code')})", _VERSION)
    return "cancelled at once; the same answer again"


async def delete(visit: Visit) -> str:
    """A deleted task is gone, and its files with it."""
    clip = clips_of_each_model(visit)[-1]
    deleted = (await visit.call("DELETE", f"/gallery/{clip.task_id}")).expect(200)
    if deleted != {"deleted": True, "id": clip.task_id}:
        raise CheckFailedError(f"DELETE /gallery answers {deleted}", _VERSION)
    visit.made.pop(clip.task_id, None)
    for method, path in (("GET", "status"), ("GET", "results"), ("GET", "preview"), ("DELETE", "gallery")):
        reply = await visit.call(method, f"/{path}/{clip.task_id}")
        reply.refusal(404, "task_not_found", "What is deleted must be gone: look for a cache before the bridge, and at admission's log.")
    return "gone with its files"
