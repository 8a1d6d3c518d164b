"""GET /events: every change of one task, as server-sent events."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.auth import CallerDependency, visible_to
from http_bridge.context import bridge_of
from http_bridge.errors import validation_error
from http_bridge.event_feed import TERMINAL
from http_bridge.event_format import END_SUFFIX, Script
from http_bridge.event_stream import EventStreamReply
from http_bridge.routes.tasks import TaskIdDependency
from runtime.rules.request import Violation

router = APIRouter(tags=["tasks"])

HEADER = "Last-Event-ID"

# Sequences are 64-bit numbers.
_ID = re.compile(rf"([0-9]{{1,18}})({END_SUFFIX})?")

_EXAMPLE = """event: status
data: {"task_id":"…","status":"processing","progress":40,"stage":"inference","stage_detail":"step 3 of 8", …}
id: 118
retry: 3000

: still there

event: end
data: {"task_id":"…","reason":"done"}
id: 123-end

"""
# Of one event, as tools read the schema of a stream.
_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["status", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "id": {"type": "string", "pattern": f"^[0-9]+({END_SUFFIX})?$"},
        "retry": {"type": "integer", "description": "Milliseconds to wait before connecting again."},
    },
}
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `status`, whose data is that of /status, then one event `end`. Silence is filled with comments.",
        "content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}},
    },
    204: {"description": "The client has seen the end: there is nothing more to come. An EventSource does not connect again."},
}


async def _last_event_id(
    request: Request,
    _documented: Annotated[
        str | SkipJsonSchema[None],
        Header(
            alias=HEADER,
            description="The id of the last event that came, to go on behind it. An EventSource sends it by itself.",
            json_schema_extra={"pattern": rf"^([0-9]{{1,18}}({END_SUFFIX})?)?$"},
        ),
    ] = None,
) -> tuple[int, bool]:
    sent = request.headers.getlist(HEADER)
    if not sent or sent == [""]:
        return 0, False
    match = _ID.fullmatch(sent[0]) if len(sent) == 1 else None
    if match is None:
        message = "must be the id of an event of this stream, as it came; leave it out to begin anew"
        raise validation_error((Violation(field=HEADER, message=message),))
    return int(match[1]), match[2] is not None


LastEventIdDependency = Annotated[tuple[int, bool], Depends(_last_event_id)]
"""Sequence after which to go on, 0 for a new stream, and whether the client has seen the end. Raises HttpError, 422."""


@router.get("/events/{task_id}", response_class=Response, responses=_REPLIES)
async def events(request: Request, caller: CallerDependency, task_id: TaskIdDependency, last_event: LastEventIdDependency) -> Response:
    """Every change of the task's status, progress, stage and queue position, as server-sent events, until it has ended.

    The first event is the task as it stands; the data of each event `status` is that of GET /status, but that `diagnostics` lists only what
    was recorded since the event before. The last event is `end`, with the reason `done`, `failed` or `deleted`: close the stream then. A
    client that lost its connection sends the last id in Last-Event-ID and misses nothing. Changes that come faster than the client reads
    are merged into the newest state.
    """
    bridge = bridge_of(request)
    after_sequence, has_seen_end = last_event
    only_owner = visible_to(bridge, caller)
    if has_seen_end and (await bridge.client.get_task(task_id, only_owner=only_owner)).state in TERMINAL:
        return Response(status_code=204)
    watch = partial(bridge.client.watch_task, task_id, only_owner=only_owner)
    script = Script(task_id, bridge.links, after_sequence)
    return EventStreamReply(bridge.event_streams, owner=caller.owner, watch=watch, script=script)
