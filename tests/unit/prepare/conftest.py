"""Published files that tests read and leave as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.harness.published_layouts import Format
    from tests.harness.published_models import PublishedModel

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
