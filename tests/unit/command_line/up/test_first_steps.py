"""What is printed when the stack is ready."""

from __future__ import annotations

import json
import shlex

import pytest

from command_line.failures import CommandError
from command_line.up.command import UpArguments, run_up
from command_line.up.first_steps import first_steps
from command_line.up.folder import DataFolder
from command_line.up.processes import ALL_PROCESSES, StackOptions

PORTS = {name: 50_000 + index for index, name in enumerate(ALL_PROCESSES)}


def _lines(folder: DataFolder, *, without: tuple[str, ...] = (), needs_address: bool = False) -> list[str]:
    names = [name for name in ALL_PROCESSES if name not in without]
    options = StackOptions(profile="tiny", processes=names, api_key="key with 'quotes'", admin_key="admin")
    ports = {name: PORTS[name] for name in names}
    return first_steps(options, ports=ports, address="127.0.0.1:50000", folder=folder, needs_address=needs_address)


def _command(lines: list[str], program: str) -> list[str]:
    return next(words for line in lines if line.startswith("  ") and (words := shlex.split(line)) and program in line)


def test_the_page_to_open_comes_first_when_the_bridge_runs(folder: DataFolder) -> None:
    assert _lines(folder)[0] == "Open http://127.0.0.1:50004/ in a browser to make a video."
    assert not any("browser" in line for line in _lines(folder, without=("http-bridge",)))


def test_console_is_named_with_its_key_when_the_bridge_runs(folder: DataFolder) -> None:
    assert "admin key: admin (opens http://127.0.0.1:50004/console; header X-Admin-Key for admin paths)" in _lines(folder)
    assert not any("/console" in line for line in _lines(folder, without=("http-bridge",)))


def test_request_is_whole_when_the_curl_command_is_pasted(folder: DataFolder) -> None:
    words = _command(_lines(folder), "curl")
    assert "http://127.0.0.1:50004/generate" in words
    assert "X-API-Key: key with 'quotes'" in words
    assert json.loads(words[words.index("-d") + 1])["model"] == "anisora"


def test_address_is_named_when_submit_would_not_find_it(folder: DataFolder) -> None:
    assert "--address" not in _command(_lines(folder), "submit")
    words = _command(_lines(folder, needs_address=True), "submit")
    assert words[words.index("--address") + 1] == "127.0.0.1:50000"


def test_model_is_one_that_is_served_when_a_lane_is_left_out(folder: DataFolder) -> None:
    words = _command(_lines(folder, without=("lane-anisora",)), "submit")
    assert words[words.index("--model") + 1] == "phr00t"


def test_no_command_is_offered_when_no_lane_runs(folder: DataFolder) -> None:
    lines = _lines(folder, without=("lane-anisora", "lane-phr00t", "degraded-pool"))
    assert not any("submit" in line for line in lines)


@pytest.mark.parametrize(("without", "told"), [(("bridge",), "no such process"), (ALL_PROCESSES, "nothing is left")])
def test_nothing_is_started_when_without_makes_no_sense(folder: DataFolder, without: tuple[str, ...], told: str) -> None:
    arguments = UpArguments(profile="tiny", data_dir=folder.root, http_port=0, grpc_port=0, without=without)
    with pytest.raises(CommandError, match=told):
        run_up(arguments, {})
