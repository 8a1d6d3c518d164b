"""When a stack is ready."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from warmlane.admission.v1 import operator_service_pb2

from command_line.client import admission_client
from command_line.up.processes import ALL_PROCESSES
from command_line.up.readiness import Wanted, missing, missing_lanes, wanted
from runtime.errors import ErrorCode, ServiceError
from tests.unit.command_line.conftest import Served

READY = operator_service_pb2.AVAILABILITY_READY
COLD = operator_service_pb2.AVAILABILITY_COLD
PORTS = dict.fromkeys(ALL_PROCESSES, 8080)


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def bridge_port() -> Iterator[int]:
    """Port of something that answers GET /health."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
        thread = threading.Thread(target=server.serve_forever, name="health")
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(10)


def _snapshot(**lanes: tuple[bool, operator_service_pb2.Availability.ValueType]) -> operator_service_pb2.GetSnapshotResponse:
    snapshot = operator_service_pb2.GetSnapshotResponse()
    for name, (warm, availability) in lanes.items():
        snapshot.lanes.add(lane_id=name, warm=warm, availability=availability)
    return snapshot


def test_both_dedicated_lanes_are_wanted_when_everything_runs() -> None:
    assert wanted(ALL_PROCESSES, PORTS).lanes == ("lane-anisora", "lane-phr00t")


@pytest.mark.parametrize(
    ("left_out", "lanes"),
    [
        ({"lane-anisora", "lane-phr00t"}, ("degraded-pool",)),
        ({"lane-anisora"}, ("lane-phr00t", "degraded-pool")),
        ({"lane-anisora", "degraded-pool"}, ("lane-phr00t",)),
        ({"lane-anisora", "lane-phr00t", "degraded-pool"}, ()),
    ],
)
def test_the_rest_is_wanted_when_a_lane_is_left_out(left_out: set[str], lanes: tuple[str, ...]) -> None:
    assert wanted([name for name in ALL_PROCESSES if name not in left_out], PORTS).lanes == lanes


def test_lane_is_missing_when_it_is_in_contact_but_not_warm() -> None:
    snapshot = _snapshot(one=(False, COLD), two=(True, READY))
    snapshot.lanes[0].reason = "loads the pipeline"
    assert missing_lanes(("one", "two"), snapshot) == ["one (loads the pipeline)"]


def test_lane_is_missing_when_it_was_never_seen() -> None:
    assert missing_lanes(("one",), _snapshot()) == ["one (not attached yet)"]


def test_lane_is_missing_when_it_was_warm_and_is_out_of_contact() -> None:
    assert missing_lanes(("one",), _snapshot(one=(True, COLD))) == ["one (warming up)"]


async def test_nothing_is_missing_when_lane_and_bridge_serve(admission: Served, bridge_port: int) -> None:
    admission.script.snapshot = _snapshot(one=(True, READY))
    async with admission_client(admission.address) as client:
        assert await missing(Wanted(lanes=("one",), bridge_port=bridge_port), client) == []


async def test_admission_and_bridge_are_missing_when_neither_answers(admission: Served) -> None:
    admission.script.refusal = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The database is locked.")
    # Port 1 is never served here.
    async with admission_client(admission.address) as client:
        assert await missing(Wanted(lanes=(), bridge_port=1), client) == [
            "admission (The database is locked)",
            "http-bridge (does not answer yet)",
        ]
