"""OperatorService: what the controller sees, what happened, and what operators may say."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING

from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceServicer

from admission.core.tasks import LaneId, Model
from admission.service import convert
from admission.service.errors import check_sequence, invalid
from admission.service.imports import Importer
from admission.service.recycling import STREAM_LIFE_S, StreamEnd
from admission.store.port import EventQuery
from runtime.rules.catalogue import MODELS
from runtime.rules.request import Violation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from admission.service.doors import Doors
    from admission.service.port import Controller
    from runtime.clock import Clock

EVENTS_AT_ONCE = 256
"""Most events in one response."""

MAX_REASON_CHARACTERS = 256
MIN_DENIED_S, MAX_DENIED_S = 1.0, 24 * 3600.0

# Names of events are few and short; a filter is not a place to keep data in.
_MAX_EVENT_TYPES = 64
_EVENT_TYPE = re.compile(r"[a-z0-9_]{1,64}")


class OperatorService(OperatorServiceServicer):
    """Shows lanes, queues, counters and events; takes an operator's word."""

    def __init__(self, *, controller: Controller, clock: Clock, doors: Doors, stream_life_s: float = STREAM_LIFE_S) -> None:
        """Shows and tells this controller; watches end after `stream_life_s`."""
        self._controller = controller
        self._clock = clock
        self._doors = doors
        self._stream_life_s = stream_life_s
        self._importer = Importer(controller=controller, clock=clock)

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: object) -> pb.GetSnapshotResponse:
        """Everything at one instant."""
        self._doors.check()
        return convert.snapshot(self._controller.snapshot(), self._clock.now().utc)

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: object) -> AsyncIterator[pb.WatchEventsResponse]:
        """Page by page, each when the last one was sent: a slow reader keeps nothing here but its own place."""
        self._doors.check()
        query, end = _event_query(request), StreamEnd(self._stream_life_s)
        if not (request.no_follow or request.only_new):
            # Nothing may be recorded for hours: the reader learns now that its stream stands. With only_new the engine does this.
            yield pb.WatchEventsResponse(last_sequence=request.after_sequence)
        watched = self._controller.watch_events(query, only_new=request.only_new, follow=not request.no_follow)
        async with aclosing(watched) as pages:
            while (page := await self._doors.hold(end.before(anext(pages, None)))) is not None:
                yield convert.event_page(page)

    async def DrainLane(self, request: pb.DrainLaneRequest, context: object) -> pb.DrainLaneResponse:
        """The lane afterwards."""
        self._doors.check()
        lane = await self._controller.drain_lane(LaneId(request.lane_id), drained=not request.resume)
        return pb.DrainLaneResponse(lane=convert.lane(lane))

    async def SetFallback(self, request: pb.SetFallbackRequest, context: object) -> pb.SetFallbackResponse:
        """The model's queue afterwards."""
        self._doors.check()
        if wrong := _model_violations(request.model):
            raise invalid(*wrong)
        queue = await self._controller.set_fallback(Model(request.model), enabled=request.enabled)
        return pb.SetFallbackResponse(queue=convert.queue(queue))

    async def ReportCapacity(self, request: pb.ReportCapacityRequest, context: object) -> pb.ReportCapacityResponse:
        """The model's queue afterwards."""
        self._doors.check()
        is_denied = request.capacity == pb.CAPACITY_DENIED
        if wrong := [*_model_violations(request.model), *_capacity_violations(request)]:
            raise invalid(*wrong)
        denied_for_s = convert.seconds(request.valid_for) if is_denied else None
        queue = await self._controller.report_capacity(Model(request.model), denied_for_s=denied_for_s, reason=request.reason)
        return pb.ReportCapacityResponse(queue=convert.queue(queue))

    async def ImportTask(self, request_iterator: AsyncIterator[pb.ImportTaskRequest], context: object) -> pb.ImportTaskResponse:
        """Takes over one ended task with its files, or says that it is there."""
        self._doors.check()
        return await self._doors.hold(self._importer.take(request_iterator))


def _event_query(request: pb.WatchEventsRequest) -> EventQuery:
    if not request.only_new:
        check_sequence(request.after_sequence)
    names = frozenset(request.event_types)
    if len(names) > _MAX_EVENT_TYPES or not all(_EVENT_TYPE.fullmatch(name) for name in names):
        raise invalid(Violation(field="event_types", message="must be names of events, of a-z, 0-9 and _"))
    task_id = convert.task_id(request.task_id)
    if request.task_id and task_id is None:
        raise invalid(Violation(field="task_id", message="is no id of a task"))
    if request.lane_id and not convert.may_be_lane(request.lane_id):
        raise invalid(Violation(field="lane_id", message="is no name of a lane"))
    return EventQuery(
        after=request.after_sequence,
        limit=EVENTS_AT_ONCE,
        event_types=names,
        task_id=task_id,
        lane_id=LaneId(request.lane_id) if request.lane_id else None,
    )


def _model_violations(model: str) -> list[Violation]:
    return [] if model in MODELS else [Violation(field="model", message=f"must be one of {', '.join(MODELS)}")]


def _capacity_violations(request: pb.ReportCapacityRequest) -> list[Violation]:
    wrong = []
    if request.capacity not in (pb.CAPACITY_DENIED, pb.CAPACITY_RESTORED):
        wrong.append(Violation(field="capacity", message="must be denied or restored"))
    elif request.capacity == pb.CAPACITY_DENIED and not MIN_DENIED_S <= convert.seconds(request.valid_for) <= MAX_DENIED_S:
        # Unset reads as 0: a denial always has an end.
        wrong.append(Violation(field="valid_for", message=f"must be {MIN_DENIED_S:g} s to {MAX_DENIED_S / 3600:g} h"))
    if len(request.reason) > MAX_REASON_CHARACTERS or not request.reason.isprintable():
        wrong.append(Violation(field="reason", message=f"must have at most {MAX_REASON_CHARACTERS} characters, on one line"))
    return wrong
