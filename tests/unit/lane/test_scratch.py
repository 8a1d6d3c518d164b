"""Temporary folders of pipeline processes and what becomes of those that were left."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil
import pytest

from runtime.lane.scratch import make_folder, remove_abandoned, remove_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def gone_pid() -> int:
    """The id of no process."""
    return max(psutil.pids()) + 100_000_000


def test_the_folder_goes_with_its_files_when_it_is_removed(temporary: Path) -> None:
    folder = make_folder("lane-a")
    (folder / "half.mp4").write_bytes(b"half")
    remove_folder(folder)
    assert list(temporary.iterdir()) == []


def test_folders_go_when_their_agent_is_dead(temporary: Path) -> None:
    # Every killed render left its files for ever.
    left = temporary / f"warmlane.lane-a.{gone_pid()}.x_y"
    (left / "warmlane-z").mkdir(parents=True)
    earlier_with_this_id = make_folder("lane-a")
    remove_abandoned("lane-a")
    assert not left.exists()
    assert not earlier_with_this_id.exists()


@pytest.mark.parametrize(
    "name", ["warmlane.lane-ab.{gone}.x", "warmlane.lane-a.{alive}.x", "warmlane.lane-a.notes", "other.lane-a.{gone}.x"]
)
def test_folders_stay_when_they_are_not_those_of_a_dead_agent_of_the_lane(temporary: Path, name: str) -> None:
    kept = temporary / name.format(gone=gone_pid(), alive=os.getppid())
    kept.mkdir()
    remove_abandoned("lane-a")
    assert kept.exists()


def test_nothing_is_followed_when_a_link_has_the_name_of_a_folder(temporary: Path) -> None:
    target = temporary / "target"
    target.mkdir()
    (target / "file").touch()
    (temporary / f"warmlane.lane-a.{gone_pid()}.x").symlink_to(target)
    remove_abandoned("lane-a")
    assert (target / "file").exists()
