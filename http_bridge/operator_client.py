"""What the bridge reads of admission's OperatorService: the snapshot, and the newest events of given names."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import grpc
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1 import operator_service_pb2_grpc

from http_bridge.calls import CALL_TIMEOUT_S, answer
from runtime.rpc_errors import service_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc.aio
    from warmlane.admission.v1.task_pb2 import TaskEvent

# How far back the first look goes, counted in events of every kind. Each further look goes this many times as far.
_FIRST_LOOK, _FURTHER = 1_000, 8


class OperatorClient:
    """Calls over a channel that its owner closes. Every method raises `runtime.errors.ServiceError`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Over this channel."""
        self._stub = operator_service_pb2_grpc.OperatorServiceStub(channel)

    async def snapshot(self) -> operator.GetSnapshotResponse:
        """Everything at one instant."""
        return await answer(self._stub.GetSnapshot(operator.GetSnapshotRequest(), timeout=CALL_TIMEOUT_S))

    async def newest_events(self, names: Sequence[str], limit: int) -> list[TaskEvent]:
        """The newest events of these names, newest first.

        The log is read forwards only, so the looks begin ever further back until there are enough: what is read is a small multiple of what
        is shown, however long the log is, unless such events are rare; and rare ones admission finds by an index.
        """
        last = await self._last_sequence()
        back = _FIRST_LOOK
        while True:
            after = max(0, last - back)
            message = operator.WatchEventsRequest(after_sequence=after, event_types=names, no_follow=True)
            found, _ = await self._read(message, limit)
            if len(found) == limit or after == 0:
                return list(reversed(found))
            back *= _FURTHER

    async def _last_sequence(self) -> int:
        _, last = await self._read(operator.WatchEventsRequest(only_new=True, no_follow=True), 1)
        return last

    async def _read(self, message: operator.WatchEventsRequest, limit: int) -> tuple[deque[TaskEvent], int]:
        """The last events of a stream that ends, and where it ended."""
        kept: deque[TaskEvent] = deque(maxlen=limit)
        last = message.after_sequence
        call = self._stub.WatchEvents(message, timeout=CALL_TIMEOUT_S)
        try:
            async for page in call:
                kept.extend(page.events)
                last = max(last, page.last_sequence)
        except grpc.RpcError as error:
            raise service_error(error) from error
        finally:
            call.cancel()
        return kept, last
