"""`python docs/metrics.py`: writes docs/reference/metrics.md from the catalogues of metrics; a test compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from admission.access_types import Verdict
from admission.core.tasks import FailureCode, FallbackReason, LaneMode
from admission.metrics import catalogue as admission
from admission.rates import RateKind
from http_bridge import metrics as bridge
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.lane.metrics import catalogue as lane
from runtime.metrics import registry, rpc
from runtime.metrics.definition import Kind
from runtime.rules.catalogue import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runtime.metrics.definition import Definition

_PAGE = Path(__file__).with_name("reference") / "metrics.md"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_HEAD = f"""# Metrics

Made from the catalogues in the code by `python docs/metrics.py`. Every process serves them to Prometheus at `/metrics` on a port of its
own, on loopback unless `WARMLANE_METRICS_BIND` says otherwise; [how to scrape them](../howto/operate.md#metrics).

Names, labels and the values of labels are stable: dashboards and alerts may depend on them. Units are seconds and bytes. Counts are since
the start of the process. No label holds anything of a request: no task, prompt, key or person.

| label | values |
|---|---|
| `model` | {_listed(MODELS)} |
| `lane` | ids of lanes, as `warmlane lanes` shows them |
| `lane_mode` | {_listed(LaneMode)} |
| `reason` of a fallback | {_listed(FallbackReason)} |
| `placement` | {_listed(BY_NAME)} |
| `phase` | {_listed(MemoryPhase)} |
| `upstream`, `call` | `image` or `accounts`; what was asked of it: a word of the code such as `generate`, `status`, `result`, `gallery` |
| `kind` of a rate | {_listed(RateKind)} |
| `verdict` | {_listed(Verdict)} |
| `code` | of a task or an attempt: `done` or the code of its failure ({_listed(FailureCode)}); of gRPC and HTTP: their statuses |
"""

_SECTIONS = (
    ("Every process", "", registry.ALL),
    ("Every gRPC server: admission and lanes", "", rpc.ALL),
    ("Admission", "Port 9101. What admission says of lanes is what it knows of them; a lane's own figures follow below.", admission.ALL),
    ("Lanes", "Ports 9102 (`lane-anisora`), 9103 (`lane-phr00t`), 9104 (`degraded-pool`).", lane.ALL),
    ("HTTP bridge", "Port 9100. A route is its template, such as `/status/{task_id}`.", bridge.ALL),
)


def page() -> str:
    """The page as it should be."""
    return _HEAD + "".join(_section(*section) for section in _SECTIONS)


def _section(title: str, sentence: str, definitions: Iterable[Definition]) -> str:
    intro = f"{sentence}\n\n" if sentence else ""
    rows = "".join(_row(one) for one in sorted(definitions, key=lambda one: one.name))
    return f"\n## {title}\n\n{intro}| name | type | labels | meaning |\n|---|---|---|---|\n{rows}"


def _row(one: Definition) -> str:
    buckets = f" Buckets: {', '.join(f'{bound:g}' for bound in one.buckets)}." if one.kind is Kind.HISTOGRAM else ""
    return f"| `{one.name}` | {one.kind} | {_listed(one.labels)} | {one.meaning}{buckets} |\n"


if __name__ == "__main__":
    _PAGE.write_text(page(), encoding="utf-8")
