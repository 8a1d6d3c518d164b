"""Names, labels, units and meanings of all metrics keep Prometheus's rules (those of `promtool check metrics`) and ours."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from admission.metrics import catalogue as admission
from http_bridge import metrics as bridge
from runtime.lane.metrics import catalogue as lane
from runtime.metrics import registry, rpc
from runtime.metrics.definition import Definition, Kind

OF = {
    "build_": (registry.BUILD,),
    "process_": registry.PROCESS,
    "grpc_": rpc.ALL,
    "admission_": admission.ALL,
    "lane_": lane.ALL,
    "http_": bridge.ALL,
}
ALL = [one for definitions in OF.values() for one in definitions]

# Each is bounded by what is configured or by the code. A new one needs a reason why nothing that is asked for can make series of it.
LABELS = {
    "availability",
    "call",
    "cause",
    "code",
    "event",
    "kind",
    "lane",
    "lane_mode",
    "method",
    "model",
    "part",
    "phase",
    "placement",
    "process",
    "reason",
    "route",
    "source",
    "state",
    "upstream",
    "verdict",
    "version",
}
UNITS = ("_seconds", "_bytes", "_ratio", "_decisions")
# promtool's, and the short forms that people write.
NOT_BASE_UNITS = {
    "milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks", "ms", "us", "ns", "sec", "secs", "s", "kilobytes",
    "megabytes", "gigabytes", "kib", "mib", "gib", "kb", "mb", "gb", "kibibytes", "mebibytes", "gibibytes", "bits", "percent",
}  # fmt: skip
TYPES = {"counter", "gauge", "histogram", "summary", "untyped"}


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_name_keeps_the_rules_when_it_is_linted(one: Definition) -> None:
    assert re.fullmatch(r"warmlane(_[a-z0-9]+)+", one.name)
    words = set(one.name.split("_"))
    assert not words & (NOT_BASE_UNITS | TYPES)
    assert one.name.endswith("_total") is (one.kind is Kind.COUNTER)
    assert not one.name.endswith(("_bucket", "_sum", "_count", "_created"))
    if one.kind is Kind.HISTOGRAM:
        assert one.name.endswith(UNITS)
    for unit in ("seconds", "bytes"):
        # A unit stands at the end, before _total.
        assert unit not in words or one.name.removesuffix("_total").endswith((f"_{unit}", f"_time_{unit}"))


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_labels_are_bounded_and_meaning_is_a_sentence_when_it_is_linted(one: Definition) -> None:
    assert set(one.labels) <= LABELS
    assert len(set(one.labels)) == len(one.labels)
    assert re.fullmatch(r"[^\n|]{10,}\.", one.meaning)
    assert bool(one.buckets) is (one.kind is Kind.HISTOGRAM)
    assert all(low < high for low, high in pairwise(one.buckets))


def test_name_says_who_says_it_when_all_are_put_together() -> None:
    assert [one.name for prefix, definitions in OF.items() for one in definitions if not one.name.startswith(f"warmlane_{prefix}")] == []
    assert len({one.name for one in ALL}) == len(ALL)


def test_lane_and_its_mode_come_first_when_a_lane_speaks_of_itself() -> None:
    assert [one.name for one in lane.ALL if one.labels[:2] != ("lane", "lane_mode")] == []
