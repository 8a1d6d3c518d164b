"""Published files that tests read and leave as they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.harness.published_layouts import Format
    from tests.harness.published_models import PublishedModel


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here can see what a machine that loses its power would keep, and a disk that others use takes up to a second a time."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


Publisher = Callable[[str, "Format"], "PublishedModel"]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """A model's files in a format, written once."""
    import torch

    from tests.harness.published_models import write_published

    torch.set_num_threads(1)

    @cache
    def publish(model: str, style: Format) -> PublishedModel:
        return write_published(model, tmp_path_factory.mktemp(f"{model}-{style}"), style, with_t2v=model == "anisora")

    return publish
