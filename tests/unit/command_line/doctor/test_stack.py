"""Ports, admission, lanes, bridge, object store and clocks of a stack that runs, one that does not, and one that is ill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from warmlane.admission.v1 import operator_service_pb2 as operators

from command_line.doctor.clock import check_admission_clock, check_bridge_clock, check_monotonic
from command_line.doctor.collector import check_collector
from command_line.doctor.finding import Outcome
from command_line.doctor.ports import check_ports
from command_line.doctor.probes import Holder, Moment
from command_line.doctor.reachability import check_admission, check_bridge, check_lanes, check_object_store
from tests.unit.command_line.doctor.conftest import NOW, READY, Look, broken, held_by, http_of, outcomes, snapshot_of

OK, WARNING, FAILED, SKIPPED = Outcome


def test_default_ports_are_free_when_nothing_runs(look: Look) -> None:
    found = look(check_ports, ports={})["ports"]
    assert found.outcome is OK
    assert "50051" in found.found


def test_holder_and_option_are_told_when_a_default_port_is_taken(look: Look) -> None:
    found = look(check_ports, ports={}, holder=lambda port: Holder(pid=5, name="nginx") if port == 8080 else None)
    assert set(found) == {"port.http-bridge"}
    assert "nginx (process 5)" in found["port.http-bridge"].found
    assert "--http-port 0" in found["port.http-bridge"].advice


def test_ports_are_this_stack_s_when_its_processes_hold_them(look: Look) -> None:
    def holder(port: int) -> Holder:
        return Holder(pid={50051: 11, 50061: 12, 8080: None}[port], name="python")

    found = look(check_ports, holder=holder)
    assert outcomes(found) == {OK}
    assert found["port.admission"].found == "50051, held by this stack's admission (process 11)"


def test_port_is_told_when_nobody_or_another_holds_it(look: Look) -> None:
    assert outcomes(look(check_ports)) == {FAILED}
    found = look(check_ports, holder=held_by(99, "nginx"))
    assert outcomes(found) == {FAILED}
    assert "nginx (process 99)" in found["port.admission"].found


def test_admission_and_its_lanes_are_listed_when_it_answers(look: Look) -> None:
    found = look(check_admission)
    assert outcomes(found) == {OK}
    assert found["lanes.lane-anisora"].found == "anisora on NVIDIA A10G: ready"


def test_each_lane_says_why_when_it_is_not_ready(look: Look) -> None:
    cold = operators.LaneSnapshot(lane_id="cold", models=["anisora"], reason="loading", availability=operators.AVAILABILITY_COLD)
    drained = operators.LaneSnapshot(lane_id="drained", models=["anisora"], drained=True, availability=operators.AVAILABILITY_READY)
    retired = operators.LaneSnapshot(lane_id="retired", models=["anisora"], availability=operators.AVAILABILITY_READY)
    retired.retired_placements.add(model="anisora", placement="resident")
    waiting = operators.LaneSnapshot(lane_id="waiting", models=["anisora"], availability=operators.AVAILABILITY_READY)
    waiting.object_store_failure = "GenericError"
    found = look(check_admission, snapshot=snapshot_of(READY, cold, drained, retired, waiting))
    assert {name: one.outcome for name, one in found.items() if name != "admission"} == {
        "lanes.lane-anisora": OK,
        "lanes.cold": WARNING,
        "lanes.drained": WARNING,
        "lanes.retired": WARNING,
        "lanes.waiting": WARNING,
    }
    assert "waits for the object store: GenericError" in found["lanes.waiting"].found
    assert "loading" in found["lanes.cold"].found
    assert "--resume" in found["lanes.drained"].advice
    assert look(check_admission, snapshot=snapshot_of())["lanes"].outcome is WARNING


@pytest.mark.parametrize(("is_named", "ports", "outcome"), [(False, {}, SKIPPED), (True, {}, FAILED), (False, {"admission": 1}, FAILED)])
def test_silence_of_admission_fails_only_where_one_should_be(look: Look, is_named: bool, ports: dict[str, int], outcome: Outcome) -> None:
    found = look(check_admission, snapshot=broken("admission does not answer"), is_named=is_named, ports=ports)
    assert found["admission"].outcome is outcome


def test_own_server_of_each_lane_is_asked(look: Look) -> None:
    assert outcomes(look(check_lanes)) == {OK}
    ill = look(check_lanes, grpc_health=lambda address, service: f"{address} says NOT_SERVING")["lanes.health.lane-anisora"]
    assert (ill.outcome, ill.found) == (FAILED, "127.0.0.1:50061 says NOT_SERVING")
    assert look(check_lanes, ports={})["lanes.health"].outcome is SKIPPED


def test_bridge_is_asked_where_it_should_be(look: Look) -> None:
    assert look(check_bridge)["bridge"].found == "answers at http://127.0.0.1:8080"
    assert look(check_bridge, http_health=http_of(502))["bridge"].outcome is FAILED
    assert look(check_bridge, http_health=broken("refused"))["bridge"].outcome is FAILED
    assert look(check_bridge, ports={"admission": 1})["bridge"].outcome is SKIPPED
    assert look(check_bridge, ports={})["bridge"].outcome is SKIPPED
    # Nobody said that a stack runs, but somebody has the port: a bridge or another program.
    assert look(check_bridge, ports={}, holder=held_by(4))["bridge"].outcome is OK
    for other in (http_of(404), broken("no HTTP")):
        assert look(check_bridge, ports={}, holder=held_by(4), http_health=other)["bridge"].outcome is SKIPPED
    secure = {"WARMLANE_HTTP_TLS_CERT_FILE": "bridge.pem"}
    assert look(check_bridge, environment=secure)["bridge"].found == "answers at https://127.0.0.1:8080"


def test_collector_is_asked_with_its_headers_when_traces_are_on(look: Look) -> None:
    assert look(check_collector)["collector"].outcome is SKIPPED
    given = {"WARMLANE_OTLP_ENDPOINT": "http://127.0.0.1:4318", "WARMLANE_OTLP_HEADERS": "authorization=Bearer%20hush"}
    asked: list[tuple[str, Mapping[str, str]]] = []

    def answer(status: int) -> Callable[[str, Mapping[str, str]], int]:
        def collector(url: str, headers: Mapping[str, str]) -> int:
            asked.append((url, headers))
            return status

        return collector

    assert look(check_collector, environment=given, collector=answer(200))["collector"].outcome is OK
    assert asked == [("http://127.0.0.1:4318/v1/traces", {"authorization": "Bearer hush"})]
    shut = look(check_collector, environment=given, collector=answer(401))["collector"]
    assert (shut.outcome, "WARMLANE_OTLP_HEADERS" in shut.advice) == (WARNING, True)
    assert look(check_collector, environment=given, collector=answer(404))["collector"].outcome is WARNING
    away = look(check_collector, environment=given, collector=broken("refused"))["collector"]
    assert (away.outcome, away.found) == (WARNING, "refused")
    wrong = look(check_collector, environment={"WARMLANE_OTLP_ENDPOINT": "4318"})["collector"]
    assert (wrong.outcome, "WARMLANE_OTLP_ENDPOINT" in wrong.found) == (FAILED, True)


def test_object_store_is_tried_with_an_object_of_its_own(look: Look, tmp_path: Path) -> None:
    assert look(check_object_store)["object-store"].outcome is OK
    assert look(check_object_store, object_store=lambda url: 5.0)["object-store"].outcome is WARNING
    assert look(check_object_store, data_dir=tmp_path / "to-come")["object-store"].outcome is SKIPPED
    given = {"WARMLANE_OBJECT_STORE_URL": "s3://key:hush@bucket/prefix?secret=hush"}
    found = look(check_object_store, object_store=broken("access denied"), environment=given)["object-store"]
    assert (found.outcome, found.found) == (FAILED, "bucket/prefix: access denied")


def test_monotonic_clock_is_good_when_it_never_goes_back(look: Look) -> None:
    assert look(check_monotonic)["clock.monotonic"].outcome is OK
    falling = iter(range(100, 0, -1))
    assert look(check_monotonic, now=lambda: Moment(monotonic_s=next(falling), utc=NOW.utc))["clock.monotonic"].outcome is FAILED
    minutes = iter(range(2000))
    stepped = look(check_monotonic, now=lambda: Moment(monotonic_s=1.0, utc=NOW.utc + timedelta(minutes=next(minutes))))
    assert stepped["clock.monotonic"].outcome is WARNING


@pytest.mark.parametrize(
    ("ahead_s", "took_s", "outcome"),
    # Read within a call of 8 s, a clock that is 8 s ahead may be right.
    [(0, 0, OK), (1.5, 0, OK), (8, 8, OK), (11, 8, WARNING), (-3, 8, WARNING), (400, 0, FAILED), (-400, 0, FAILED)],
)
def test_clock_of_admission_is_compared_at_the_call(look: Look, ahead_s: float, took_s: float, outcome: Outcome) -> None:
    found = look(check_admission_clock, snapshot=snapshot_of(ahead_s=ahead_s, took_s=took_s))["clock.admission"]
    assert found.outcome is outcome
    if outcome is not OK:
        assert ("behind" in found.found) is (ahead_s < 0)


@pytest.mark.parametrize(("ahead_s", "outcome"), [(0, OK), (-2.5, OK), (-4, WARNING), (4, WARNING), (1000, FAILED)])
def test_clock_of_the_bridge_is_compared_by_whole_seconds(look: Look, ahead_s: float, outcome: Outcome) -> None:
    http = http_of(date=NOW.utc + timedelta(seconds=ahead_s))
    assert look(check_bridge_clock, http_health=http)["clock.bridge"].outcome is outcome


def test_clocks_are_passed_over_when_nobody_tells_the_time(look: Look) -> None:
    assert look(check_admission_clock, snapshot=broken("away"))["clock.admission"].outcome is SKIPPED
    assert look(check_bridge_clock, http_health=broken("away"))["clock.bridge"].outcome is SKIPPED
    assert look(check_bridge_clock, http_health=http_of(date=None))["clock.bridge"].outcome is SKIPPED
