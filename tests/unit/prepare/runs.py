"""Preparations within the test's own process."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.preparation import Event, Finished, Note, Order, SourceOrder, Storage

if TYPE_CHECKING:
    from tests.harness.published_models import PublishedModel


def order_of(published: PublishedModel, models_dir: Path, **changes: Any) -> Order:
    """An order for all sources of a published model by their paths; `paths` changes some of these."""
    paths = {**published.sources, **changes.pop("paths", {})}
    sources = {name: SourceOrder(path=path) for name, path in paths.items()}
    fields: dict[str, Any] = {"sizes": published.sizes, "sources": sources, "storage": Storage.FP8}
    return Order(model=published.model, models_dir=models_dir, **(fields | changes))


def run(order: Order) -> list[Event]:
    """Prepares; returns what was told. Raises PrepareError."""
    from runtime.lane.prepare.session import prepare
    from runtime.lane.prepare.telling import Teller

    told: list[Event] = []
    checkpoint = importlib.import_module(f"lane_{order.model}.checkpoint").CHECKPOINT
    prepare(order, checkpoint, Teller(told.append))
    return told


def finished(told: list[Event]) -> Finished:
    """The last event of a run that made a folder."""
    assert isinstance(told[-1], Finished)
    return told[-1]


def notes(told: list[Event]) -> list[str]:
    """The sentences for people."""
    return [event.text for event in told if isinstance(event, Note)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
