"""The data folder: who holds it, what can be read of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line.address import find_admission
from command_line.failures import CommandError
from command_line.up.folder import DataFolder, read_ports


def test_second_holder_is_refused_when_the_folder_is_held(folder: DataFolder) -> None:
    with folder.held(), pytest.raises(CommandError, match=r"already runs on .*--data-dir"), DataFolder(folder.root).held():
        pass


def test_folder_can_be_held_again_when_the_first_holder_let_go(folder: DataFolder) -> None:
    with folder.held():
        pass
    with DataFolder(folder.root).held():
        pass


def test_only_the_last_lines_are_read_when_the_log_is_long(folder: DataFolder) -> None:
    folder.log_path("one").write_text("".join(f"line {number}\n" for number in range(10_000)), encoding="utf-8")
    assert folder.log_tail("one", since=0, lines=2) == ["line 9998", "line 9999"]


def test_clear_sentence_is_given_when_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="--data-dir"):
        DataFolder(tmp_path / "file" / "data").create()


def test_address_comes_from_the_running_stack_when_none_is_named(folder: DataFolder) -> None:
    folder.write_ports({"admission": 51234})
    assert find_admission(None, folder.root) == "127.0.0.1:51234"
    assert find_admission("127.0.0.1:9", folder.root) == "127.0.0.1:9"


def test_default_address_is_taken_when_no_stack_runs(folder: DataFolder) -> None:
    assert find_admission(None, folder.root) == "127.0.0.1:50051"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"admission": "x"}'])
def test_no_port_is_read_when_the_file_is_not_what_up_writes(folder: DataFolder, content: str) -> None:
    folder.ports_path.write_text(content, encoding="utf-8")
    assert read_ports(folder.root) == {}
