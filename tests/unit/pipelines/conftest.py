"""Loaded tiny pipelines, shared by all tests that leave them as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.pipelines.jobs import load, settings

if TYPE_CHECKING:
    from runtime.lane.renderer import Pipeline


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny components of this test run lie."""
    import torch

    # One thread: clips this small gain nothing from more, and waiting threads take time from whatever runs beside the tests.
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def anisora(models_dir: Path) -> Pipeline:
    """AniSora, tiny."""
    from lane_anisora.pipeline import catalog

    return load(catalog, "anisora", settings(models_dir))


@pytest.fixture(scope="session")
def phr00t(models_dir: Path) -> Pipeline:
    """Phr00t, tiny."""
    from lane_phr00t.pipeline import catalog

    return load(catalog, "phr00t", settings(models_dir))


@pytest.fixture(autouse=True)
def _texts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No render knows a text from another one, so that each has all of its phases. `test_embeddings` is about what is remembered."""
    monkeypatch.setattr("runtime.lane.wan.embeddings.EmbeddingCache.get", lambda _cache, _text: None)
