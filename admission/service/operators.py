"""OperatorService: what the controller sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceServicer

from admission.service import convert

if TYPE_CHECKING:
    from admission.service.doors import Doors
    from admission.service.port import Controller
    from runtime.clock import Clock


class OperatorService(OperatorServiceServicer):
    """Shows lanes, queues and counters."""

    def __init__(self, *, controller: Controller, clock: Clock, doors: Doors) -> None:
        """Shows this controller."""
        self._controller = controller
        self._clock = clock
        self._doors = doors

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: object) -> pb.GetSnapshotResponse:
        """Everything at one instant."""
        self._doors.check()
        return convert.snapshot(self._controller.snapshot(), self._clock.now().utc)
