"""What the console reads and says: a stream of the state and of events, and the orders of an admin to lanes and models."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.admin import AdminAttempt, AdminGrant, admin, attempt, let_in
from http_bridge.bodies import read_body
from http_bridge.console.stream import ConsoleReply
from http_bridge.context import bridge_of
from http_bridge.diagnostics import fallback_reason
from http_bridge.errors import HttpError, validation_error
from http_bridge.routes.events import LastEventIdDependency
from http_bridge.schemas_console import ConsoleAway, ConsoleEvents, ConsoleSnapshot, DrainOrder, DrainReply, FallbackOrder, FallbackReply
from runtime.rules.catalogue import MODELS
from runtime.rules.request import Violation

router = APIRouter(tags=["admin"])

_Order = TypeVar("_Order", bound=BaseModel)

# An order is one word.
_MOST_BYTES = 1024

_EXAMPLE = """event: snapshot
data: {"taken_at":"…","controller_epoch":3,"problems":[],"lanes":[…],"queues":[…],"degraded":{…},"store":{…},"tasks":[…], …}
retry: 3000

event: events
data: {"reset":true,"events":[{"sequence":118,"event_type":"lane_ready","lane":"lane-anisora", …}]}
id: 118

: still there

"""
# Extensions of OpenAPI: it has no words for what a stream holds.
_EVENTS = {
    name: {"$ref": f"#/components/schemas/{model.__name__}"}
    for name, model in (("snapshot", ConsoleSnapshot), ("events", ConsoleEvents), ("away", ConsoleAway))
}
_REPLIES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "Events `snapshot` (schema ConsoleSnapshot), `events` (ConsoleEvents) and, while admission is out of reach, `away` "
            "(ConsoleAway). Silence is filled with comments."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE, "x-events": _EVENTS}},
    },
}


def _body_of(order: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": order.model_json_schema()}}}}


@router.get("/console/events", response_class=Response, responses=_REPLIES)
async def console_events(
    request: Request,
    attempted: Annotated[AdminAttempt, attempt("admin_console")],
    _grant: Annotated[AdminGrant, admin("admin_console")],
    last_event: LastEventIdDependency,
) -> Response:
    """What admission sees, about once a second when it changes, and every event that is recorded, as server-sent events.

    The first `events` has `reset` true and holds the newest ones; a client that sends the last id in Last-Event-ID gets all that came after
    it instead, unless it missed too many. The stream ends after ten minutes, or when its admin session is ended: then come again. Each time
    that it is opened is one entry in the audit log. No key, token or prompt appears in it.
    """
    bridge = bridge_of(request)
    after_sequence, _ = last_event
    return ConsoleReply(bridge.consoles, bridge.client.operator, token=attempted.call.token, after_sequence=after_sequence)


@router.post("/admin/lanes/{lane}/drain", openapi_extra=_body_of(DrainOrder))
async def drain(
    request: Request,
    attempted: Annotated[AdminAttempt, attempt("admin_drain")],
    lane: Annotated[str, Path(description="As `diagnostics` names it.")],
) -> DrainReply:
    """Gives the lane no more work (`admin_drain` in the audit log), or work again (`admin_resume`). What it works on goes on.

    It holds across restarts of admission and of the lane. 404 `lane_not_found`: no such lane is known.
    """
    operator = bridge_of(request).client.operator
    taken = await _taken(request, DrainOrder)
    is_resume = isinstance(taken, DrainOrder) and not taken.drained
    is_known = attempted.has_credential and lane in {one.lane_id for one in (await operator.snapshot()).lanes}
    await let_in(request, attempted, action="admin_resume" if is_resume else "admin_drain", subject=lane if is_known else "")
    found = await operator.drain_lane(lane, drained=_order(taken).drained)
    return DrainReply(lane=found.lane_id, is_drained=found.drained, is_busy=bool(found.task_id) or found.HasField("finishing"))


@router.post("/admin/models/{model}/fallback", openapi_extra=_body_of(FallbackOrder))
async def fallback(
    request: Request,
    attempted: Annotated[AdminAttempt, attempt("admin_fallback")],
    model: Annotated[str, Path(description="As `diagnostics` names it.", json_schema_extra={"enum": list(MODELS)})],
) -> FallbackReply:
    """Sends the model's requests to the degraded pool (`admin_fallback_on` in the audit log), or no longer (`admin_fallback_off`).

    Its own lanes finish what they work on. It holds across restarts of admission. 422: there is no such model.
    """
    taken = await _taken(request, FallbackOrder)
    word = f"_{'on' if taken.enabled else 'off'}" if isinstance(taken, FallbackOrder) else ""
    await let_in(request, attempted, action=f"admin_fallback{word}", subject=model if model in MODELS else "")
    found = await bridge_of(request).client.operator.set_fallback(model, enabled=_order(taken).enabled)
    return FallbackReply(model=found.model, is_manual_fallback=found.manual_fallback, fallback_reason=fallback_reason(found))


async def _taken(request: Request, kind: type[_Order]) -> _Order | HttpError:
    """The order in the body, or what is wrong with it: who may not say it shall hear that first, and the audit log of the call."""
    bridge = bridge_of(request)
    try:
        async with bridge.large_bodies.room() as room:
            body = await read_body(request, room, limit_bytes=_MOST_BYTES, timeout_s=bridge.settings.body_timeout_s)
        return kind.model_validate_json(bytes(body))
    except HttpError as error:
        return error
    except ValidationError as error:
        wrong = (Violation(field=".".join(map(str, one["loc"])) or "body", message=one["msg"]) for one in error.errors())
        return validation_error(tuple(wrong))


def _order(taken: _Order | HttpError) -> _Order:
    if isinstance(taken, HttpError):
        raise taken
    return taken
