"""What a log line holds, and what it never holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from runtime.lane.child_protocol import Render
from runtime.lane.state import Attempt
from runtime.logs import BusyLog, LogSettings, configure_logging


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    output = capsys.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    told = json.loads(line)
    assert isinstance(told, dict)
    return told


def test_event_is_one_line_of_json_when_the_format_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json"), process="admission")

    structlog.get_logger().info("task_accepted", task_id="1", depth=3)

    line = _line(capsys)
    assert {"event": "task_accepted", "task_id": "1", "depth": 3, "level": "info", "process": "admission"}.items() <= line.items()
    assert line["timestamp"].endswith("Z")


def test_line_names_lane_task_attempt_and_model_when_a_lane_works_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    # A lane's `out_of_memory` told the phase, and nobody whose it was.
    configure_logging(LogSettings(log_format="json"), process="lane-a-pipeline", lane="lane-a")
    order = Render(attempt=Attempt(task_id="task-1", number=2), parameters={"model": "anisora"}, artifact_prefix="p", trace_id="f" * 32)

    with order.about().told():
        structlog.get_logger().warning("out_of_memory", phase="decode")
        logging.getLogger("obstore").warning("odd")
    structlog.get_logger().info("idle")

    within, foreign, after = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    about = {"lane": "lane-a", "task": "task-1", "attempt": 2, "model": "anisora", "trace_id": "f" * 32}
    assert about.items() <= within.items()
    assert about.items() <= foreign.items()
    assert after["lane"] == "lane-a"
    assert not {"task", "attempt", "model", "trace_id"} & after.keys()


def test_line_of_another_library_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json"))

    logging.getLogger("asyncio").warning("slow: %s", "callback")

    assert {"event": "slow: callback", "logger": "asyncio", "level": "warning"}.items() <= _line(capsys).items()


def test_secret_is_not_in_the_line_when_a_caller_logs_one(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json"))

    structlog.get_logger().info("request_refused", prompt="a lake", api_key="k1")

    line = _line(capsys)
    assert (line["prompt"], line["api_key"]) == ("[not logged]", "[not logged]")


@pytest.mark.parametrize("log_format", ["json", "pretty"])
def test_variables_are_not_in_the_line_when_an_exception_is_logged(capsys: pytest.CaptureFixture[str], log_format: Any) -> None:
    configure_logging(LogSettings(log_format=log_format))
    try:
        _failing(" ".join(("a", "lake", "at", "dawn")))
    except ValueError as error:
        structlog.get_logger().error("rpc_failed", exc_info=error)

    told = capsys.readouterr().err
    assert "ValueError" in told
    assert "a lake at dawn" not in told


def test_event_is_dropped_when_it_is_below_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json", log_level="warning"))

    structlog.get_logger().info("task_accepted")

    assert capsys.readouterr().err == ""


def _failing(prompt: str) -> None:
    msg = f"{len(prompt)} characters"
    raise ValueError(msg)


def _busy_and_plain(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    fields: dict[str, str | int | float] = {"path": "/caf\u00e9", "status": 202, "duration_ms": 1.5}
    BusyLog("http_bridge.middleware", "http_request").write(fields)
    structlog.get_logger("http_bridge.middleware").info("http_request", **fields)
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_busy_line_is_that_of_a_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json"), process="http-bridge")

    busy, plain = _busy_and_plain(capsys)

    assert list(busy) == list(plain)
    assert {name: value for name, value in busy.items() if name != "timestamp"} == {
        name: value for name, value in plain.items() if name != "timestamp"
    }


def test_busy_line_is_dropped_when_it_is_below_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json", log_level="warning"))
    assert _busy_and_plain(capsys) == []


def test_busy_line_is_for_people_when_lines_are(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="pretty"))
    BusyLog("http_bridge.middleware", "http_request").write({"status": 202})
    assert "http_request" in capsys.readouterr().err


def test_line_is_written_when_a_value_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(log_format="json"))
    structlog.get_logger().info("odd", value=object)
    assert _line(capsys)["event"] == "odd"
