"""What checks look with: one function for each thing that lies outside the program, so that tests give others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from warmlane.admission.v1 import operator_service_pb2

from command_line.doctor.finding import Case
from runtime.survey import Survey, SurveyOrder


class ProbeError(Exception):
    """It could not be looked at; the text says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverGpu:
    """A GPU as the driver's `nvidia-smi` tells it."""

    index: int
    uuid: str
    name: str
    driver: str
    total_mib: int
    used_mib: int
    capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that has memory of a GPU."""

    uuid: str
    pid: int
    name: str
    used_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """All that the driver tells."""

    gpus: Sequence[DriverGpu]
    processes: Sequence[GpuProcess]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpeed:
    """Sequential rates of a folder's disk."""

    write_bytes_s: float
    read_bytes_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who listens on a port; `pid` is None where the system does not tell another user's."""

    pid: int | None
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One reading of both clocks."""

    monotonic_s: float
    utc: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """Of the bridge's `/health`. `date` is its clock, to the second; None when it told none."""

    status: int
    date: datetime | None
    asked: Moment
    answered: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotAnswer:
    """Admission's snapshot, with the moments before and after the call."""

    snapshot: operator_service_pb2.GetSnapshotResponse
    asked: Moment
    answered: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Every way to look. Each may raise ProbeError.

    Attributes:
        python: version of the interpreter.
        requirements: of this program, as its package tells them; None when it is not installed as one.
        pins: exact versions of `constraints.txt`, where the sources are here.
        version_of: of an installed package; None when it is not there.
        driver: what nvidia-smi tells; None when there is none.
        survey: what a process with torch tells.
        free_bytes: of the disk of a folder that exists.
        disk_of: number of the disk of a folder that exists.
        disk_speed: of the disk of a folder that exists; takes a few seconds.
        holder: who listens on a port of this machine; None: nobody.
        descendants: ids of the processes that a process has started, theirs too; empty when it is gone.
        now: both clocks.
        snapshot: of admission.
        http_health: of the bridge at a base URL.
        grpc_health: why the gRPC server at `host:port` does not serve, None when it does; the second: a service's name.
        object_store: puts, gets and deletes a small object in the store at a URL; returns the seconds.
        collector: status that a collector of traces at a URL answers, asked with these headers.
        certificates_end: when each certificate of a PEM file ends.
    """

    python: tuple[int, int, int]
    requirements: Callable[[], Sequence[str] | None]
    pins: Callable[[], Mapping[str, str]]
    version_of: Callable[[str], str | None]
    driver: Callable[[], Driver | None]
    survey: Callable[[SurveyOrder], Survey]
    free_bytes: Callable[[Path], int]
    disk_of: Callable[[Path], int]
    disk_speed: Callable[[Path], DiskSpeed]
    holder: Callable[[int], Holder | None]
    descendants: Callable[[int], Collection[int]]
    now: Callable[[], Moment]
    snapshot: Callable[[Case], SnapshotAnswer]
    http_health: Callable[[str, Case], HttpAnswer]
    grpc_health: Callable[[str, str], str | None]
    object_store: Callable[[str], float]
    collector: Callable[[str, Mapping[str, str]], int]
    certificates_end: Callable[[Path], Sequence[datetime]]
