"""The report of `benchmarks.gpu_memory` for people: one page of markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GIB = 1024**3

_GRID = ("model", "mode", "size", "placement", "predicted_bytes", "peak_bytes", "predicted_over_measured", "decided_by", "failure")
_STREAMING = ("model", "size", "whole", "whole_step_s", "streamed_step_s", "streamed_over_whole")
_SWITCHES = ("model", "bytes", "release_s", "load_s", "weights_s", "switch_s", "copy_s", "switch_over_copy")
_RECOVERY = (
    "model",
    "ran_out_in",
    "recovered",
    "out_of_memory",
    "placement",
    "next_request_ok",
    "next_placement",
    "live_after_bytes",
    "failure",
)


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people; parts that were not measured are not in it."""
    limits = report["limits"]
    sizes = ", ".join(
        f"{name.removesuffix('_bytes')} {limits[name] / _GIB:.2f} GiB" for name in ("other_bytes", "margin_bytes", "budget_bytes")
    )
    versions = ", ".join(f"{name} {report[name]}" for name in ("driver", "cuda", "cudnn", "torch", "diffusers", "python") if report[name])
    lines = [
        f"# GPU memory on {report['device']}",
        "",
        f"Held to {limits['total_bytes'] / _GIB:.2f} GiB ({sizes}); {versions}; {report.get('seconds', 0):.0f} s in the last run.",
    ]
    if report.get("grid"):
        lines += ["", "## Peaks", "", *peaks(report["grid"])]
    for title, names in (("copies", "Copies from pinned memory"), ("alternating", "The two models in turn")):
        if report.get(title):
            lines += ["", f"## {names}", "", *(f"- {name}: {_shown(name, value)}" for name, value in report[title].items())]
    for part, title, columns in (
        ("switches", "Switches", _SWITCHES),
        ("streaming", "Streamed blocks against a whole transformer", _STREAMING),
        ("recovery", "Recovery from a full device", _RECOVERY),
    ):
        if report.get(part):
            lines += ["", f"## {title}", "", *_table(report[part], columns)]
    for part, text in report.get("failures", {}).items():
        lines += ["", f"## {part} failed", "", "```", text.rstrip(), "```"]
    if report.get("left_out"):
        lines += ["", f"Left out, for time unless it says why: {', '.join(report['left_out'])}."]
    return "\n".join(lines) + "\n"


def peaks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines about the grid: how good the predictions are, and every cell."""
    return [_summary(rows), "", *_table(rows, _GRID)]


def _summary(rows: Sequence[Mapping[str, Any]]) -> str:
    ratios = sorted(row["predicted_over_measured"] for row in rows)
    under, close = sum(ratio < 1.0 for ratio in ratios), sum(1.0 <= ratio <= 1.1 for ratio in ratios)
    return (
        f"{len(rows)} cells: the prediction is under the measured peak in {under}, at most 10 % over it in {close}"
        f" ({100 * close / len(rows):.0f} %), lowest {ratios[0]:.3f}, highest {ratios[-1]:.3f} of it."
    )


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return head + [f"| {' | '.join(_shown(name, row[name]) for name in columns)} |" for row in rows]


def _shown(name: str, value: Any) -> str:
    is_bytes = name.endswith("bytes") and isinstance(value, int)
    return f"{value / _GIB:.3f} GiB" if is_bytes else str(value)
