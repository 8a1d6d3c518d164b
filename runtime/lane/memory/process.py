"""The memory of this process and of the machine, or the container, that it runs on."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUPS = (
    # version 2, version 1: what the container may use, what it uses, and how much of that is cached files that it need not keep.
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def host_rss_bytes() -> int:
    """Resident set of this process."""
    return int(psutil.Process().memory_info().rss)


def host_rss_peak_bytes() -> int | None:
    """Highest resident set of this process since it started; None where the system does not tell."""
    # Not getrusage: its maximum starts with that of the process that started this one.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def host_memory_bytes(cgroup: Path = _CGROUP_ROOT) -> int:
    """Memory of the machine, or the container's share of it if that is less."""
    machine_bytes = int(psutil.virtual_memory().total)
    limits = (_number(cgroup / limit) for limit, _, _, _ in _CGROUPS)
    return min((machine_bytes, *(limit for limit in limits if limit)))


def host_available_bytes(cgroup: Path = _CGROUP_ROOT) -> int:
    """What this process could still take without pushing anything out: of the machine, and of the container if it is limited."""
    available_bytes = int(psutil.virtual_memory().available)
    for limit_name, usage_name, stat_name, cached_name in _CGROUPS:
        limit, usage = _number(cgroup / limit_name), _number(cgroup / usage_name)
        if limit and usage:
            available_bytes = min(available_bytes, limit - usage + _statistic(cgroup / stat_name, cached_name))
    return max(0, available_bytes)


def oom_kill_count(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes of the machine the kernel has killed because memory ran out, containers included; 0 where it does not tell."""
    return _statistic(vmstat, "oom_kill")


def _number(path: Path) -> int | None:
    """The number in a file; None when there is none (`max`) or no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int:
    """A line's number in a file of names and numbers; 0 when it is not there."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
