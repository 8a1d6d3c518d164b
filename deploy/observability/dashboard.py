"""`python deploy/observability/dashboard.py`: writes dashboard.json for Grafana from the panels below; a test compares the two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).with_name("dashboard.json")
_COLUMNS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One graph, number or table.

    Attributes:
        queries: legend to PromQL.
        unit: Grafana's name of the unit.
        kind: `timeseries`, `stat` or `state-timeline`.
        width: of 24 columns.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    meaning: str = ""


_A, _L = "warmlane_admission_", "warmlane_lane_"
_MODEL, _LANE = '{model=~"$model"}', '{lane=~"$lane"}'


def _p(quantile: float, name: str, by: str, labels: str = "") -> str:
    return f"histogram_quantile({quantile}, sum by (le, {by}) (rate({name}_bucket{labels}[5m])))"


_ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Can users be served?",
        (
            Panel(
                title="Lanes ready",
                kind="stat",
                queries={"{{model}} {{lane_mode}}": f"sum by (model, lane_mode) ({_A}ready_lanes{_MODEL})"},
            ),
            Panel(
                title="Where new requests go",
                kind="state-timeline",
                queries={"{{model}}: {{reason}}": f"{_A}fallback_active{_MODEL}"},
                meaning="1: they go the degraded way, for this reason.",
            ),
            Panel(
                title="Refused, per minute",
                queries={"{{model}} {{cause}}": f"sum by (model, cause) (rate({_A}rejections_total{_MODEL}[5m])) * 60"},
            ),
            Panel(
                title="Accepted, per minute",
                queries={"{{model}} {{lane_mode}}": f"sum by (model, lane_mode) (rate({_A}acceptances_total{_MODEL}[5m])) * 60"},
            ),
            Panel(
                title="Ended, per minute",
                queries={"{{model}} {{code}}": f"sum by (model, code) (rate({_A}task_ends_total{_MODEL}[5m])) * 60"},
            ),
            Panel(title="Wait for the lease, p95", unit="s", queries={"{{model}}": _p(0.95, f"{_A}lease_wait_seconds", "model", _MODEL)}),
        ),
    ),
    (
        "Queues",
        (
            Panel(title="Waiting", queries={"{{model}}": f"{_A}queue_tasks{_MODEL}", "limit {{model}}": f"{_A}queue_limit_tasks{_MODEL}"}),
            Panel(
                title="Degraded queue, of 25",
                queries={"{{state}}": f"{_A}degraded_requests", "limit": f"{_A}degraded_limit_requests"},
            ),
            Panel(
                title="Oldest held request, of 30 s",
                unit="s",
                queries={"oldest": f"{_A}degraded_oldest_wait_seconds", "limit": f"{_A}degraded_wait_limit_seconds"},
            ),
            Panel(title="Predicted wait", unit="s", queries={"{{model}}": f"{_A}predicted_wait_seconds{_MODEL}"}),
            Panel(title="Running", queries={"{{model}}": f"{_A}running_tasks{_MODEL}"}),
            Panel(
                title="Retries and lost lanes, per hour",
                queries={
                    "retries {{model}}": f"sum by (model) (increase({_A}retries_total{_MODEL}[1h]))",
                    "lost {{lane}}": f"sum by (lane) (increase({_A}lost_lanes_total{_LANE}[1h]))",
                },
            ),
        ),
    ),
    (
        "Lanes",
        (
            Panel(
                title="Availability",
                kind="state-timeline",
                width=12,
                queries={"{{lane}} {{availability}}": f"{_A}lane_availability{_LANE}"},
            ),
            Panel(
                title="Resident model", kind="state-timeline", width=12, queries={"{{lane}} {{model}}": f"{_L}resident_model_info{_LANE}"}
            ),
            Panel(title="Render, p50", unit="s", queries={"{{lane}} {{model}}": _p(0.5, f"{_L}render_seconds", "lane, model", _LANE)}),
            Panel(
                title="Denoising step, p50", unit="s", queries={"{{lane}} {{model}}": _p(0.5, f"{_L}step_seconds", "lane, model", _LANE)}
            ),
            Panel(title="Cold start, p95", unit="s", queries={"{{lane}}": _p(0.95, f"{_L}cold_start_seconds", "lane", _LANE)}),
            Panel(
                title="Switches, per hour",
                queries={"{{lane}} {{reason}}": f"sum by (lane, reason) (increase({_L}switches_total{_LANE}[1h]))"},
            ),
            Panel(
                title="Load of a switch, p95",
                unit="s",
                queries={"{{lane}} {{source}}": _p(0.95, f"{_L}switch_load_seconds", "lane, source", _LANE)},
            ),
            Panel(title="Since the last report", unit="s", queries={"{{lane}}": f"{_A}lane_report_age_seconds{_LANE}"}),
        ),
    ),
    (
        "GPU memory",
        (
            Panel(
                title="Peak, predicted and measured",
                unit="bytes",
                width=12,
                queries={
                    "measured {{lane}} {{placement}}": f"{_L}measured_peak_bytes{_LANE}",
                    "predicted {{lane}} {{placement}}": f"{_L}predicted_peak_bytes{_LANE}",
                    "device {{lane}}": f'{_L}device_memory_bytes{{lane=~"$lane",part="total"}}',
                },
            ),
            Panel(
                title="After the last attempt",
                unit="bytes",
                width=12,
                queries={
                    "allocated {{lane}}": f"{_L}allocated_bytes{_LANE}",
                    "reserved {{lane}}": f"{_L}reserved_bytes{_LANE}",
                    "driver free {{lane}}": f"{_L}driver_free_bytes{_LANE}",
                },
            ),
            Panel(
                title="Out of memory",
                queries={"{{lane}} {{model}} {{phase}}": f"sum by (lane, model, phase) (increase({_L}out_of_memory_total{_LANE}[1h])) > 0"},
            ),
            Panel(
                title="Measured over predicted, p99",
                unit="percentunit",
                queries={"{{lane}} {{model}}": _p(0.99, f"{_L}peak_ratio", "lane, model", _LANE)},
            ),
            Panel(
                title="Residue and drift",
                unit="bytes",
                queries={"residue {{lane}}": f"{_L}residue_bytes{_LANE}", "drift {{lane}}": f"{_L}drift_bytes{_LANE}"},
            ),
            Panel(
                title="Host memory of the pipeline",
                unit="bytes",
                queries={"resident {{lane}}": f"{_L}host_resident_memory_bytes{_LANE}", "pinned {{lane}}": f"{_L}pinned_bytes{_LANE}"},
            ),
            Panel(
                title="Placements, per hour",
                queries={"{{lane}} {{placement}}": f"sum by (lane, placement) (increase({_L}attempt_placements_total{_LANE}[1h]))"},
            ),
            Panel(title="Cleanup, p95", unit="s", queries={"{{lane}}": _p(0.95, f"{_L}cleanup_seconds", "lane", _LANE)}),
        ),
    ),
    (
        "Store, HTTP and gRPC",
        (
            Panel(
                title="Commit, p99",
                unit="s",
                queries={"p99": f"histogram_quantile(0.99, sum by (le) (rate({_A}store_commit_seconds_bucket[5m])))"},
            ),
            Panel(
                title="Decisions a commit, mean",
                queries={"mean": f"rate({_A}store_batch_decisions_sum[5m]) / rate({_A}store_batch_decisions_count[5m])"},
            ),
            Panel(title="Commits that failed", queries={"failed": f"increase({_A}store_failures_total[5m])"}),
            Panel(
                title="HTTP requests a second",
                queries={"{{route}} {{code}}": "sum by (route, code) (rate(warmlane_http_requests_total[5m]))"},
            ),
            Panel(title="HTTP, p95", unit="s", queries={"{{route}}": _p(0.95, "warmlane_http_request_seconds", "route")}),
            Panel(
                title="gRPC calls a second",
                queries={"{{method}} {{code}}": "sum by (method, code) (rate(warmlane_grpc_requests_total[5m]))"},
            ),
        ),
    ),
    (
        "Processes",
        (
            Panel(title="Memory", unit="bytes", queries={"{{process}} {{instance}}": "warmlane_process_resident_memory_bytes"}),
            Panel(
                title="Processor", unit="percentunit", queries={"{{process}} {{instance}}": "rate(warmlane_process_cpu_seconds_total[5m])"}
            ),
            Panel(title="Open files", queries={"{{process}} {{instance}}": "warmlane_process_open_fds"}),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """What Grafana imports."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in _ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, top, _COLUMNS, 1)}
        )
        top += 1
        left = 0
        for panel in row:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + 8
            panels.append(_panel(panel, len(panels) + 1, _place(left, top, panel.width, 8)))
            left += panel.width
        top += 8
    return {
        "uid": "warmlane",
        "title": "Warmlane",
        "description": "Made by deploy/observability/dashboard.py; docs/reference/metrics.md says what each metric means.",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                _source(),
                _variable("model", f"label_values({_A}queue_tasks, model)"),
                _variable("lane", f"label_values({_A}lane_warm, lane)"),
            ]
        },
        "panels": panels,
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": {"type": "prometheus", "uid": "${source}"}}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "query": query,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "refresh": 2,
        "sort": 1,
    }


def page() -> str:
    """The file as it should be."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    _PAGE.write_text(page(), encoding="utf-8")
