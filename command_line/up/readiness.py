"""When a stack is ready, and what it still waits for."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmlane.admission.v1 import operator_service_pb2

from command_line.client import AdmissionClient
from command_line.up.ports import LOOPBACK
from command_line.up.processes import ADMISSION, DEDICATED_LANES, DEGRADED_POOL, HTTP_BRIDGE
from runtime.errors import ServiceError

_HTTP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What must serve before the stack is called ready.

    Attributes:
        lanes: lanes that must be warm.
        bridge_port: port of the bridge that must answer; None when it was left out.
    """

    lanes: Sequence[str]
    bridge_port: int | None


def wanted(processes: Sequence[str], ports: Mapping[str, int]) -> Wanted:
    """Both dedicated lanes; where one was left out, what runs of the lanes, the pool included, because then the pool serves its model."""
    lanes = [name for name in DEDICATED_LANES if name in processes]
    if len(lanes) < len(DEDICATED_LANES) and DEGRADED_POOL in processes:
        lanes.append(DEGRADED_POOL)
    return Wanted(lanes=tuple(lanes), bridge_port=ports[HTTP_BRIDGE] if HTTP_BRIDGE in processes else None)


async def missing(want: Wanted, client: AdmissionClient) -> list[str]:
    """What the stack waits for, one short phrase each; empty when it is ready."""
    waits: list[str] = []
    try:
        snapshot = await client.snapshot()
    except ServiceError as error:
        told = "does not answer yet" if "grpc_status" in error.metadata else error.message.rstrip(".")
        waits.append(f"{ADMISSION} ({told})")
    else:
        waits.extend(missing_lanes(want.lanes, snapshot))
    if want.bridge_port is not None and not await asyncio.to_thread(_answers, want.bridge_port):
        waits.append(f"{HTTP_BRIDGE} (does not answer yet)")
    return waits


def missing_lanes(lanes: Sequence[str], snapshot: operator_service_pb2.GetSnapshotResponse) -> list[str]:
    """Which of the lanes cannot be given work yet, and why not."""
    seen = {lane.lane_id: lane for lane in snapshot.lanes}
    return [f"{name} ({_why(seen.get(name))})" for name in lanes if not _is_ready(seen.get(name))]


def _is_ready(lane: operator_service_pb2.LaneSnapshot | None) -> bool:
    return lane is not None and lane.warm and lane.availability == operator_service_pb2.AVAILABILITY_READY


def _why(lane: operator_service_pb2.LaneSnapshot | None) -> str:
    if lane is None:
        return "not attached yet"
    return lane.reason or "warming up"


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_HTTP_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
