"""Ports: named, default, picked."""

from __future__ import annotations

import pytest

from command_line.failures import CommandError
from command_line.up.ports import is_taken, metrics_of, owner_of, pick_free_ports, plan_ports
from command_line.up.processes import ALL_PROCESSES, listeners


def test_every_port_is_picked_when_grpc_port_is_zero() -> None:
    ports = plan_ports(listeners(ALL_PROCESSES, http_port=None, grpc_port=0), side_by_side=True)
    assert set(ports.by_process) == ports.picked == {*ALL_PROCESSES, *map(metrics_of, ALL_PROCESSES)}
    assert len(set(ports.by_process.values())) == 2 * len(ALL_PROCESSES)


def test_named_ports_stay_when_the_rest_is_picked() -> None:
    grpc_port, http_port = pick_free_ports(2)
    ports = plan_ports(listeners(ALL_PROCESSES, http_port=http_port, grpc_port=grpc_port), side_by_side=True)
    assert (ports.by_process["admission"], ports.by_process["http-bridge"]) == (grpc_port, http_port)
    assert ports.picked == {"lane-anisora", "lane-phr00t", "degraded-pool", *map(metrics_of, ALL_PROCESSES)}


def test_defaults_are_those_of_the_design_when_nothing_is_named() -> None:
    assert {one.process: one.default for one in listeners(ALL_PROCESSES, http_port=None, grpc_port=None)} == {
        "admission": 50051,
        "lane-anisora": 50061,
        "lane-phr00t": 50062,
        "degraded-pool": 50063,
        "http-bridge": 8080,
        "http-bridge-metrics": 9100,
        "admission-metrics": 9101,
        "lane-anisora-metrics": 9102,
        "lane-phr00t-metrics": 9103,
        "degraded-pool-metrics": 9104,
    }


def test_port_of_metrics_belongs_to_its_process_when_it_is_lost() -> None:
    assert [owner_of(name) for name in ("admission", metrics_of("admission"))] == ["admission", "admission"]


def test_same_port_is_refused_when_it_is_named_twice() -> None:
    (port,) = pick_free_ports(1)
    with pytest.raises(CommandError, match="both admission and http-bridge"):
        plan_ports(listeners(ALL_PROCESSES, http_port=port, grpc_port=port), side_by_side=True)


def test_port_is_free_when_it_was_just_picked() -> None:
    assert not is_taken(pick_free_ports(1)[0])
