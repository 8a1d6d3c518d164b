"""Reads what `/metrics` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.http import fetch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.samples import Sample


class Page:
    """One answer of `/metrics`."""

    def __init__(self, text: str) -> None:
        """Parses it."""
        self.text = text
        self.families: dict[str, Metric] = {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float | None:
        """Of the one series with these labels (others may be there too), without the prefix `warmlane_`; None: there is none."""
        found = [one.value for one in self.samples() if one.name == f"warmlane_{name}" and labels.items() <= one.labels.items()]
        assert len(found) <= 1, f"{name} {labels}: {found}"
        return found[0] if found else None

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series with these labels."""
        return sum(one.value for one in self.samples() if one.name == f"warmlane_{name}" and labels.items() <= one.labels.items())

    def samples(self) -> Iterator[Sample]:
        """All of them."""
        for family in self.families.values():
            yield from family.samples


def page_of(registry: CollectorRegistry) -> Page:
    """What a scrape of the registry would give."""
    return Page(generate_latest(registry).decode())


def scraped(port: int) -> Page:
    """What the process behind the port answers."""
    reply = fetch("GET", f"http://127.0.0.1:{port}/metrics")
    reply.raise_for_status()
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Page(reply.text)
