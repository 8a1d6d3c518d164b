"""The report of `benchmarks.gpu_memory` for people: one page of markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GIB = 1024**3


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    limits = report["limits"]
    sizes = ", ".join(
        f"{name.removesuffix('_bytes')} {limits[name] / _GIB:.2f} GiB" for name in ("other_bytes", "margin_bytes", "budget_bytes")
    )
    held = f"{limits['total_bytes'] / _GIB:.2f} GiB ({sizes})"
    lines = [
        f"# GPU memory on {report['device']}",
        "",
        f"Held to {held}; torch {report['torch']}; {report['seconds']:.0f} s in all.",
        "",
        *_table(
            report["grid"],
            (
                "model",
                "mode",
                "size",
                "placement",
                "predicted_bytes",
                "peak_bytes",
                "measured_over_predicted",
                "seconds_per_step",
                "failure",
            ),
        ),
        "",
        *(f"- {name}: {value}" for name, value in {**report["alternating"], **report["copies"]}.items()),
        "",
        *_table(report["recovery"], ("model", "phase", "recovered", "placement", "next_request_ok", "live_after_bytes")),
    ]
    if report["left_out"]:
        lines += ["", f"Left out, for time unless it says why: {', '.join(report['left_out'])}."]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    def shown(name: str, value: Any) -> str:
        return f"{value / _GIB:.3f} GiB" if name.endswith("_bytes") and isinstance(value, int) else str(value)

    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return head + [f"| {' | '.join(shown(name, row[name]) for name in columns)} |" for row in rows]
