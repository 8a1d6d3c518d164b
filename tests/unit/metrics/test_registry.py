"""What every process tells, and what a registry leaves out."""

from __future__ import annotations

from runtime.metrics.definition import counter, histogram
from runtime.metrics.registry import ALL, Registry
from tests.harness.metrics import page_of


def test_process_and_version_are_told_when_nothing_else_is_registered() -> None:
    page = page_of(Registry("lane-test"))
    assert page.value("build_info", process="lane-test") == 1
    assert (page.value("process_resident_memory_bytes") or 0) > 1_000_000
    told = {family.documentation for family in page.families.values()}
    assert told == {one.meaning for one in ALL}


def test_nothing_but_the_values_is_told_when_something_is_counted() -> None:
    registry = Registry("lane-test")
    counter("tests_total", "Tests that were counted.").counter(registry).add()
    histogram("test_seconds", "Seconds that they took.", buckets=(1.0,)).histogram(registry).observe(2)
    page = page_of(registry)
    assert page.value("tests_total") == 1
    assert [page.value("test_seconds_bucket", le=bound) for bound in ("1.0", "+Inf")] == [0, 1]
    assert "_created" not in page.text


def test_nothing_is_shared_when_a_process_has_two_registries() -> None:
    definition = counter("tests_total", "Tests that were counted.")
    first, second = Registry("a"), Registry("b")
    definition.counter(first).add()
    definition.counter(second)
    assert (page_of(first).value("tests_total"), page_of(second).value("tests_total")) == (1, 0)


def test_values_fall_into_buckets_when_they_are_at_their_bounds() -> None:
    registry = Registry("a")
    spreads = histogram("test_seconds", "Seconds that they took.", "lane", buckets=(1.0, 2.5)).histogram(registry)
    for value in (0.5, 1.0, 1.1, 2.5, 9.0):
        spreads.observe(value, ("x",))
    page = page_of(registry)
    assert [page.value("test_seconds_bucket", lane="x", le=bound) for bound in ("1.0", "2.5", "+Inf")] == [2, 4, 5]
    assert (page.value("test_seconds_sum", lane="x"), page.value("test_seconds_count", lane="x")) == (14.1, 5)


def test_series_are_gone_when_they_are_forgotten() -> None:
    registry = Registry("a")
    counts = counter("tests_total", "Tests that were counted.", "lane", "code").counter(registry)
    for lane in ("x", "y"):
        counts.add((lane, "done"))
    counts.forget(lambda labels: labels[0] == "x")
    page = page_of(registry)
    assert (page.value("tests_total", lane="x"), page.value("tests_total", lane="y", code="done")) == (None, 1)
