"""The lane's own service: its state for probes and engineers, in contact with admission or not."""

from __future__ import annotations

from datetime import datetime

from google.protobuf import timestamp_pb2
from warmlane.lane.v1 import inspection_service_pb2 as pb
from warmlane.lane.v1 import inspection_service_pb2_grpc as pb_grpc

from runtime.lane.agent import Agent
from runtime.lane.convert import memory_message

SERVICE_NAME = "warmlane.lane.v1.InspectionService"


class InspectionService(pb_grpc.InspectionServiceServicer):
    """Reads the agent; changes nothing."""

    def __init__(self, agent: Agent, started_at: datetime) -> None:
        """Keeps the agent and when it started (aware UTC)."""
        self._agent = agent
        self._started_at = started_at

    async def GetStatus(self, request: pb.GetStatusRequest, context: object) -> pb.GetStatusResponse:  # noqa: N802
        """The lane as it sees itself."""
        started_at = timestamp_pb2.Timestamp()
        started_at.FromDatetime(self._started_at)
        return pb.GetStatusResponse(
            report=self._agent.report(),
            attached=self._agent.is_attached,
            controller_epoch=self._agent.epoch,
            pipeline_pid=self._agent.status.pid,
            started_at=started_at,
            memory_records=[memory_message(record) for record in self._agent.memory_records],
            drained=self._agent.is_drained,
        )
