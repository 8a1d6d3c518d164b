"""The memory of a machine is that of the container where that is less."""

from __future__ import annotations

from pathlib import Path

import psutil

from runtime.lane.memory.process import host_available_bytes, host_memory_bytes, host_rss_bytes, host_rss_peak_bytes, oom_kill_count

_MIB = 1024 * 1024


def test_the_container_decides_when_its_limit_is_below_the_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{100 * _MIB}\n")
    assert host_memory_bytes(tmp_path) == 100 * _MIB


def test_the_old_kind_of_container_limit_is_read_when_there_is_no_new_one(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{64 * _MIB}\n")
    assert host_memory_bytes(tmp_path) == 64 * _MIB


def test_the_machine_decides_when_the_container_has_no_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory_bytes(tmp_path) == psutil.virtual_memory().total


def test_cached_files_are_available_when_a_container_holds_them(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{100 * _MIB}")
    (tmp_path / "memory.current").write_text(f"{90 * _MIB}")
    (tmp_path / "memory.stat").write_text(f"anon {50 * _MIB}\ninactive_file {30 * _MIB}\n")
    assert host_available_bytes(tmp_path) == 40 * _MIB


def test_the_peak_is_at_least_what_is_resident_when_a_process_runs() -> None:
    now, peak = host_rss_bytes(), host_rss_peak_bytes()
    assert now > 0
    assert peak is None or peak > 0


def test_processes_that_were_killed_for_memory_are_counted_where_the_system_tells(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\noom_kill_other 9\n")
    assert oom_kill_count(tmp_path / "vmstat") == 3
    assert oom_kill_count(tmp_path / "absent") == 0
