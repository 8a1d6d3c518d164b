"""Looks at this machine: packages, GPUs, disks, ports, clocks, files."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import ValidationError

from command_line.doctor.certificates import ends_of
from command_line.doctor.probes import DiskSpeed, Driver, DriverGpu, GpuProcess, Holder, Moment, ProbeError
from runtime.survey import Survey, SurveyOrder

_SMI_TIMEOUT_S = 10.0
# torch is imported from a disk that may be slow, and each GPU is opened.
_SURVEY_TIMEOUT_S = 120.0
_CHUNK_BYTES = 1024 * 1024
_TRIAL_BYTES = 128 * _CHUNK_BYTES
_TRIAL_S = 1.5
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;#]+)")


def requirements() -> Sequence[str] | None:
    """As the installed package tells them."""
    try:
        return importlib.metadata.requires("warmlane") or []
    except importlib.metadata.PackageNotFoundError:
        return None


def version_of(name: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pins() -> Mapping[str, str]:
    """Of `constraints.txt`, where the sources are here."""
    path = Path(__file__).resolve().parents[2] / "constraints.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {match["name"]: match["version"] for line in lines if (match := _PIN.match(line))}


def driver() -> Driver | None:
    """What nvidia-smi tells; None when it is not there or fails."""
    gpus = _smi("gpu", "index,uuid,name,driver_version,memory.total,memory.used,compute_cap")
    if gpus is None:
        return None
    processes = _smi("compute-apps", "gpu_uuid,pid,process_name,used_gpu_memory") or []
    return Driver(
        gpus=[
            DriverGpu(
                index=_number(row[0]),
                uuid=row[1],
                name=row[2],
                driver=row[3],
                total_mib=_number(row[4]),
                used_mib=_number(row[5]),
                capability=row[6],
            )
            for row in gpus
        ],
        processes=[GpuProcess(uuid=row[0], pid=_number(row[1]), name=Path(row[2]).name, used_mib=_number(row[3])) for row in processes],
    )


def survey(order: SurveyOrder) -> Survey:
    """By a process of its own: this one has no torch."""
    command = [sys.executable, "-m", "runtime.lane.survey", order.model_dump_json()]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SURVEY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        msg = f"the process that looks at torch and memory did not end within {_SURVEY_TIMEOUT_S:.0f} s"
        raise ProbeError(msg) from error
    except OSError as error:
        msg = f"the process that looks at torch and memory cannot be started: {error.strerror}"
        raise ProbeError(msg) from error
    lines = answer.stdout.splitlines()
    try:
        return Survey.model_validate_json(lines[-1] if lines else "")
    except ValidationError as error:
        last = answer.stderr.strip().splitlines()[-1:] or [f"exit code {answer.returncode}"]
        msg = f"the process that looks at torch and memory ended without an answer: {last[0]}"
        raise ProbeError(msg) from error


def free_bytes(folder: Path) -> int:
    """Of its disk, for this user."""
    return shutil.disk_usage(folder).free


def disk_of(folder: Path) -> int:
    """Number of the file system."""
    return folder.stat().st_dev


def disk_speed(folder: Path) -> DiskSpeed:
    """Writes and reads one file from end to end, for at most some seconds. The file has no name: nothing stays, however this ends."""
    # Bytes that no file system can make smaller.
    chunk = os.urandom(_CHUNK_BYTES)
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".warmlane-doctor-", buffering=0) as file:
            descriptor = file.fileno()
            written, write_s = _written(descriptor, chunk)
            # What stays in memory would be read from there.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            read, read_s = _read(descriptor)
    except OSError as error:
        msg = f"{folder}: a file cannot be written and read there: {error.strerror}"
        raise ProbeError(msg) from error
    return DiskSpeed(write_bytes_s=written / write_s, read_bytes_s=read / read_s)


def holder(port: int) -> Holder | None:
    """Who listens on the port, on whichever address."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied as error:
        msg = "this system does not tell who listens on its ports"
        raise ProbeError(msg) from error
    # A tuple of host and port; empty for sockets that have neither.
    found = [one for one in connections if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port]
    if not found:
        return None
    pid = next((one.pid for one in found if one.pid is not None), None)
    return Holder(pid=pid, name=_process_name(pid))


def descendants(pid: int) -> Collection[int]:
    """Children, their children, and so on."""
    try:
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    except psutil.Error:
        return ()


def now() -> Moment:
    """Both clocks, one right after the other."""
    return Moment(monotonic_s=time.monotonic(), utc=datetime.now(UTC))


def certificates_end(path: Path) -> Sequence[datetime]:
    """Of each certificate of a PEM file."""
    try:
        return ends_of(path.read_bytes())
    except OSError as error:
        raise ProbeError(error.strerror or "it cannot be read") from error
    except ValueError as error:
        raise ProbeError(str(error)) from error


def _smi(what: str, fields: str) -> list[list[str]] | None:
    command = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    wanted = fields.count(",") + 1
    rows = csv.reader(answer.stdout.splitlines(), skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if len(row) == wanted]


def _number(text: str) -> int:
    """Figures that a driver does not tell (`[N/A]`) are 0."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _written(descriptor: int, chunk: bytes) -> tuple[int, float]:
    """Bytes, and the seconds until they were on the disk."""
    started_s, written = time.monotonic(), 0
    while written < _TRIAL_BYTES and (written == 0 or time.monotonic() - started_s < _TRIAL_S):
        written += os.write(descriptor, chunk)
    os.fsync(descriptor)
    return written, max(time.monotonic() - started_s, 1e-6)


def _read(descriptor: int) -> tuple[int, float]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    started_s, read = time.monotonic(), 0
    while time.monotonic() - started_s < _TRIAL_S and (piece := os.read(descriptor, _CHUNK_BYTES)):
        read += len(piece)
    return read, max(time.monotonic() - started_s, 1e-6)


def _process_name(pid: int | None) -> str:
    if pid is None:
        return ""
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return ""
