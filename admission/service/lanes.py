"""DispatchService: the stream between a lane and admission."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceServicer

from admission.service import convert_lanes
from runtime.errors import ErrorCode, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from admission.service.doors import Doors
    from admission.service.port import Controller, LaneSession

PROTOCOL_VERSION = 1
"""Of Attach."""

# Lanes report every 5 s or more often. A stream that is silent for as long as a lease lasts has nothing left to say; the lane dials again.
SILENCE_S = 30.0


class DispatchService(DispatchServiceServicer):
    """One reader and one writer for each stream; the engine decides, this moves messages."""

    def __init__(self, *, controller: Controller, doors: Doors, silence_s: float = SILENCE_S) -> None:
        """Serves the lanes of this controller; a stream without a report for `silence_s` is ended."""
        self._controller = controller
        self._doors = doors
        self._silence_s = silence_s

    async def Attach(self, request_iterator: AsyncIterator[pb.AttachRequest], context: object) -> AsyncIterator[pb.AttachResponse]:
        """Takes reports and sends wishes until either side ends the stream."""
        self._doors.check()
        session = self._controller.open_lane()
        reader = asyncio.create_task(self._read(request_iterator, session), name=f"attach-{session.number}-reader")
        try:
            while (wish := await self._doors.hold(_wish_while(reader, session))) is not None:
                yield wish
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await session.close()

    async def _read(self, requests: AsyncIterator[pb.AttachRequest], session: LaneSession) -> None:
        """Hands every report to the engine; returns when the lane has no more to say."""
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    request = await anext(requests, None)
            except TimeoutError:
                message = f"No report came for {self._silence_s:g} s."
                raise ServiceError(code=ErrorCode.SESSION_ENDED, message=message) from None
            if request is None:
                return
            _check_version(request.report)
            await session.report(convert_lanes.report(request.report, session.number))


async def _wish_while(reader: asyncio.Task[None], session: LaneSession) -> pb.AttachResponse | None:
    """The next message to the lane; None once the lane left. Raises what ended the reader or the session."""
    wish = asyncio.create_task(session.next_wish(), name=f"{reader.get_name()}-next")
    try:
        await asyncio.wait((reader, wish), return_when=asyncio.FIRST_COMPLETED)
        if wish.done():
            return convert_lanes.attach_response(wish.result())
        reader.result()
        return None
    finally:
        wish.cancel()
        await asyncio.gather(wish, return_exceptions=True)


def _check_version(report: pb.LaneReport) -> None:
    if report.protocol_version != PROTOCOL_VERSION:
        raise ServiceError(
            code=ErrorCode.PROTOCOL_VERSION_UNSUPPORTED,
            message=f"This admission speaks version {PROTOCOL_VERSION} of the lane protocol, not {report.protocol_version}.",
            metadata={"supported": str(PROTOCOL_VERSION)},
        )
