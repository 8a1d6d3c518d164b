"""What the bridge reads of admission's OperatorService: the snapshot, and the newest events of lanes and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1 import operator_service_pb2_grpc

from http_bridge.calls import CALL_TIMEOUT_S, answer

if TYPE_CHECKING:
    import grpc.aio


class OperatorClient:
    """Calls over a channel that its owner closes. Every method raises `runtime.errors.ServiceError`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Over this channel."""
        self._stub = operator_service_pb2_grpc.OperatorServiceStub(channel)

    async def snapshot(self) -> operator.GetSnapshotResponse:
        """Everything at one instant."""
        return await answer(self._stub.GetSnapshot(operator.GetSnapshotRequest(), timeout=CALL_TIMEOUT_S))
