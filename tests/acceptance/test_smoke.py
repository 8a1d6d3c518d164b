"""`warmlane smoke` on the real stack with real pipelines: everything is ok, with an overload too, and nothing stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from command_line.smoke.visit import PROMPT
from tests.harness.http import Frontend
from tests.harness.stack import Stack

_TIMEOUT_S = 280.0


def _smoke(stack: Stack, *words: str) -> tuple[int, dict[str, Any]]:
    """As people call it, with the keys in the environment."""
    environment = {**os.environ, "WARMLANE_API_KEY": stack.api_key, "WARMLANE_ADMIN_KEY": stack.admin_key}
    command = [sys.executable, "-m", "command_line", "smoke", *words, "--json", "--timeout", "120"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


def _outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in document["checks"]}


def test_every_check_is_ok_on_a_real_stack(stack: Stack, frontend: Frontend) -> None:
    code, document = _smoke(stack, f"{stack.http_url}/api", "--rounds", "1")
    assert [check for check in document["checks"] if check["outcome"] != "ok"] == []
    assert (code, document["ok"]) == (0, True)
    outcomes = _outcomes(document)
    assert {"render 1.anisora", "render 1.phr00t", "events", "ranges", "diagnostics", "audit log", "cleanup"} <= set(outcomes)
    assert [item for item in frontend.client.get("/gallery?per_page=100").json()["items"] if item["prompt"] == PROMPT] == []


@pytest.mark.long
def test_overload_is_shown_on_a_real_stack_and_leaves_it_ready(stack: Stack, frontend: Frontend) -> None:
    code, document = _smoke(stack, stack.http_url, "--rounds", "2", "--overload")
    assert [check for check in document["checks"] if check["outcome"] != "ok"] == []
    assert (code, document["ok"]) == (0, True)
    assert _outcomes(document)["overload"] == "ok"
    status, _ = frontend.render(model="anisora", prompt="a paper boat", width=256, height=256, num_frames=9)
    assert status["lane_mode"] == "dedicated"
