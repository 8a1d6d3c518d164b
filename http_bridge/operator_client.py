"""What the bridge asks of admission's OperatorService: the snapshot, events, and what an admin may say of lanes and models."""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1 import operator_service_pb2_grpc

from http_bridge.calls import CALL_TIMEOUT_S, answer
from runtime.rpc_errors import service_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    import grpc.aio
    from warmlane.admission.v1.task_pb2 import TaskEvent

# Of a stream that follows; admission ends its own after 30 minutes.
_STREAM_TIMEOUT_S = 3600.0
# How far back the first look goes, counted in events of every kind. Each further look goes this many times as far.
_FIRST_LOOK, _FURTHER = 1_000, 8
# What one look reads at most; many times what is ever shown, so that looking nearer always ends.
_MOST_READ = 5_000


class OperatorClient:
    """Calls over a channel that its owner closes. Every method raises `runtime.errors.ServiceError`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Over this channel."""
        self._stub = operator_service_pb2_grpc.OperatorServiceStub(channel)

    async def snapshot(self) -> operator.GetSnapshotResponse:
        """Everything at one instant."""
        return await answer(self._stub.GetSnapshot(operator.GetSnapshotRequest(), timeout=CALL_TIMEOUT_S))

    async def drain_lane(self, lane_id: str, *, drained: bool) -> operator.LaneSnapshot:
        """Gives the lane no more work, or work again; the lane afterwards. Raises `lane_not_found`."""
        message = operator.DrainLaneRequest(lane_id=lane_id, resume=not drained)
        return (await answer(self._stub.DrainLane(message, timeout=CALL_TIMEOUT_S))).lane

    async def set_fallback(self, model: str, *, enabled: bool) -> operator.QueueSnapshot:
        """Sends the model to the degraded pool, or no longer; its queue afterwards."""
        message = operator.SetFallbackRequest(model=model, enabled=enabled)
        return (await answer(self._stub.SetFallback(message, timeout=CALL_TIMEOUT_S))).queue

    def follow_events(self, after_sequence: int) -> AsyncGenerator[operator.WatchEventsResponse, None]:
        """Every event behind this sequence, then those that are recorded; the first page may be empty. Raises `stream_recycled` when it has
        lived long enough: then follow again. Closing it ends the call."""
        return self._watch(operator.WatchEventsRequest(after_sequence=after_sequence), _STREAM_TIMEOUT_S)

    async def last_sequence(self) -> int:
        """Of the newest event."""
        last = 0
        async with aclosing(self._watch(operator.WatchEventsRequest(only_new=True, no_follow=True))) as pages:
            async for page in pages:
                last = max(last, page.last_sequence)
        return last

    async def newest_events(self, names: Sequence[str], limit: int) -> list[TaskEvent]:
        """The newest events of these names, newest first; no name: of all.

        The log is read forwards only, so a look begins somewhere before its end: ever further back until there are enough, nearer again
        where there are too many. So what is read is bounded, however long the log is and wherever such events crowd; rare ones admission
        finds by an index.
        """
        end = await self.last_sequence()
        back, too_many, too_few = _FIRST_LOOK, -1, end
        after = max(0, end - back)
        while True:
            found = await self._look(after, names, limit)
            if found is None:
                too_many = after
            elif len(found) == limit or after == 0:
                return list(reversed(found))
            else:
                too_few, back = after, back * _FURTHER
            after = max(0, end - back) if too_many < 0 else (too_many + too_few) // 2

    async def _look(self, after: int, names: Sequence[str], limit: int) -> deque[TaskEvent] | None:
        """The last of what was recorded after this; None when that is more than one look reads."""
        kept: deque[TaskEvent] = deque(maxlen=limit)
        read = 0
        async with aclosing(self._watch(operator.WatchEventsRequest(after_sequence=after, event_types=names, no_follow=True))) as pages:
            async for page in pages:
                kept.extend(page.events)
                read += len(page.events)
                if read > _MOST_READ:
                    return None
        return kept

    async def _watch(
        self, message: operator.WatchEventsRequest, timeout_s: float = CALL_TIMEOUT_S
    ) -> AsyncGenerator[operator.WatchEventsResponse, None]:
        call = self._stub.WatchEvents(message, timeout=timeout_s)
        try:
            async for page in call:
                yield page
        except grpc.RpcError as error:
            raise service_error(error) from error
        finally:
            # Of a reader that has enough; nothing to one that ended.
            call.cancel()
