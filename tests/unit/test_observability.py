"""Alerts, runbooks and the dashboard: each alert has its runbook and its test, and all name metrics that exist."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from admission.metrics import catalogue as admission
from http_bridge import metrics as bridge
from runtime.lane.metrics import catalogue as lane
from runtime.metrics import registry, rpc
from runtime.metrics.definition import Kind

_ROOT = Path(__file__).resolve().parents[2]
_FOLDER = _ROOT / "deploy" / "observability"
_DEFINITIONS = (*registry.ALL, *rpc.ALL, *admission.ALL, *lane.ALL, *bridge.ALL)


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((_FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _series() -> set[str]:
    """Every name that a query may use."""
    names: set[str] = set()
    for definition in _DEFINITIONS:
        names |= (
            {f"{definition.name}{end}" for end in ("_bucket", "_sum", "_count")} if definition.kind is Kind.HISTOGRAM else {definition.name}
        )
    return names


def _unknown(text: str) -> set[str]:
    return set(re.findall(r"\bwarmlane_[a-z0-9_]+", text)) - _series()


def test_every_alert_has_an_entry_of_its_own_name_in_the_runbooks() -> None:
    page = (_ROOT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^### (Warmlane\w+)$", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(alert["alert"] for alert in _alerts())


@pytest.mark.parametrize("alert", _alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_urgent_it_is_and_where_its_runbook_stands(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["runbook"] == f"docs/runbooks/README.md#{alert['alert'].lower()}"
    assert not _unknown(alert["expr"])


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    tests = yaml.safe_load((_FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    tried: dict[str, set[bool]] = {}
    for case in (case for test in tests for case in test["alert_rule_test"]):
        tried.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert tried == {alert["alert"]: {True, False} for alert in _alerts()}


@pytest.mark.parametrize("arguments", [("test", "rules", "alerts_test.yml"), ("check", "config", "prometheus.yml")])
def test_promtool_finds_nothing_when_it_tries_the_rules(arguments: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert "CI" not in os.environ, "CI has promtool: .ci/run installs it"
        pytest.skip("promtool is not installed")
    tried = subprocess.run([promtool, *arguments], cwd=_FOLDER, capture_output=True, text=True, check=False, timeout=60)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_dashboard_is_what_its_panels_make_and_names_metrics_that_exist() -> None:
    made = runpy.run_path(str(_FOLDER / "dashboard.py"))["page"]()
    stored = (_FOLDER / "dashboard.json").read_text(encoding="utf-8")
    assert stored == made, "run: .venv/bin/python deploy/observability/dashboard.py"
    panels = json.loads(stored)["panels"]
    assert not _unknown(" ".join(target["expr"] for panel in panels for target in panel.get("targets", ())))
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_no_panels_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((_FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
