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


def test_times_of_creation_are_left_out_when_something_is_counted() -> None:
    registry = Registry("lane-test")
    counter("tests_total", "Tests that were counted.").counter(registry).inc()
    histogram("test_seconds", "Seconds that they took.", buckets=(1.0,)).histogram(registry).observe(2)
    page = page_of(registry)
    assert page.value("tests_total") == 1
    assert page.value("test_seconds_bucket", le="+Inf") == 1
    assert "_created" not in page.text


def test_nothing_is_shared_when_a_process_has_two_registries() -> None:
    definition = counter("tests_total", "Tests that were counted.")
    first, second = Registry("a"), Registry("b")
    definition.counter(first).inc()
    definition.counter(second)
    assert (page_of(first).value("tests_total"), page_of(second).value("tests_total")) == (1, 0)
