"""A healthy machine as probes: each test makes one thing of it worse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from warmlane.admission.v1 import operator_service_pb2 as operators

from command_line.doctor.finding import Case, Check, Finding, Outcome
from command_line.doctor.probes import (
    DiskSpeed,
    Driver,
    DriverGpu,
    Holder,
    HttpAnswer,
    Moment,
    ProbeError,
    Probes,
    SnapshotAnswer,
)
from runtime.survey import Survey, SurveyedGpu, SurveyedTorch, SurveyOrder

GIB = 1024**3
NOW = Moment(monotonic_s=100.0, utc=datetime(2026, 1, 1, tzinfo=UTC))
A10G = SurveyedGpu(index=0, name="NVIDIA A10G", capability=(8, 6), total_bytes=int(22.06 * GIB), free_bytes=int(21.8 * GIB))

Look = Callable[..., dict[str, Finding]]


def torch_with(*gpus: SurveyedGpu, cuda: str = "13.0", error: str = "") -> Callable[[SurveyOrder], Survey]:
    """A survey that finds these GPUs, 128 GiB of memory and whole weights."""

    def survey(order: SurveyOrder) -> Survey:
        torch = SurveyedTorch(version="2.13.0", cuda=cuda, gpus=gpus, error=error) if order.with_torch else None
        return Survey(host_bytes=128 * GIB, available_bytes=120 * GIB, torch=torch, weights=dict.fromkeys(order.models, ""))

    return survey


def driver_of(count: int) -> Driver:
    """So many A10Gs that nobody uses."""
    gpus = [
        DriverGpu(index=index, uuid=f"GPU-{index}", name="NVIDIA A10G", driver="580.1", total_mib=23028, used_mib=3, capability="8.6")
        for index in range(count)
    ]
    return Driver(gpus=gpus, processes=[])


def snapshot_of(*lanes: operators.LaneSnapshot, ahead_s: float = 0.0, took_s: float = 0.0) -> Callable[[Case], SnapshotAnswer]:
    """An admission with these lanes whose clock is so far ahead."""
    snapshot = operators.GetSnapshotResponse(controller_epoch=3, lanes=lanes)
    snapshot.taken_at.FromDatetime(NOW.utc + timedelta(seconds=ahead_s))
    answered = Moment(monotonic_s=NOW.monotonic_s + took_s, utc=NOW.utc + timedelta(seconds=took_s))
    return lambda case: SnapshotAnswer(snapshot=snapshot, asked=NOW, answered=answered)


def http_of(status: int = 200, *, date: datetime | None = NOW.utc) -> Callable[[str, Case], HttpAnswer]:
    """A bridge that answers so."""
    return lambda url, case: HttpAnswer(status=status, date=date, asked=NOW, answered=NOW)


def broken(text: str) -> Callable[..., object]:
    """A probe that cannot look."""

    def probe(*_arguments: object) -> object:
        raise ProbeError(text)

    return probe


READY = operators.LaneSnapshot(
    lane_id="lane-anisora", models=["anisora"], availability=operators.AVAILABILITY_READY, warm=True, gpu="NVIDIA A10G"
)


@pytest.fixture
def probes() -> Probes:
    """Everything is as it should be."""
    return Probes(
        python=(3, 11, 7),
        requirements=lambda: ["grpcio<2,>=1.85", 'torch==2.13.0; extra == "lane"'],
        pins=lambda: {"grpcio": "1.85.1", "torch": "2.13.0"},
        version_of={"grpcio": "1.85.1", "torch": "2.13.0+cu130"}.get,
        driver=lambda: driver_of(3),
        survey=torch_with(A10G),
        free_bytes=lambda folder: 500 * GIB,
        disk_of=lambda folder: 1,
        disk_speed=lambda folder: DiskSpeed(write_bytes_s=5e8, read_bytes_s=1e9),
        holder=lambda port: None,
        # A lane renders in a child of its own.
        descendants=lambda pid: {pid + 100},
        now=lambda: NOW,
        snapshot=snapshot_of(READY),
        http_health=http_of(),
        grpc_health=lambda address, service: None,
        object_store=lambda url: 0.01,
        collector=lambda url, headers: 200,
        certificates_end=lambda path: [NOW.utc + timedelta(days=80)],
    )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A machine for the real checkpoints on which a stack runs."""
    (tmp_path / "objects").mkdir()
    ports = {"admission": 50051, "lane-anisora": 50061, "http-bridge": 8080}
    return Case(
        profile="a10g",
        data_dir=tmp_path,
        models_dir=tmp_path / "models",
        address="127.0.0.1:50051",
        ports=ports,
        pids={"admission": 11, "lane-anisora": 12, "http-bridge": 13},
    )


@pytest.fixture
def look(case: Case, probes: Probes) -> Look:
    """Makes one check: with other probes, or of another case where the name is one of a case."""

    def made(check: Check, **changed: object) -> dict[str, Finding]:
        of_case = {name: value for name, value in changed.items() if name in Case.__dataclass_fields__}
        of_probes = {name: value for name, value in changed.items() if name not in of_case}
        findings = list(check(replace(case, **of_case), replace(probes, **of_probes)))  # type: ignore[arg-type]
        assert len({one.name for one in findings}) == len(findings)
        return {one.name: one for one in findings}

    return made


def outcomes(findings: dict[str, Finding]) -> set[Outcome]:
    """Of all together."""
    return {one.outcome for one in findings.values()}


def held_by(pid: int | None, name: str = "python") -> Callable[[int], Holder | None]:
    """Somebody listens on every port."""
    return lambda port: Holder(pid=pid, name=name)


def every(findings: Iterable[Finding], outcome: Outcome) -> Sequence[str]:
    """Names of those that ended so."""
    return [one.name for one in findings if one.outcome is outcome]
