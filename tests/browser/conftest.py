"""The one browser of the tests of the pages; they share the running stack with the acceptance tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.harness.browser import running_chromium, write_screenshot

_IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """A headless browser. It ends with the last of these tests: what comes after may need the event loop of this thread."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def keep_screenshot(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Writes what a page shows into docs/images, by this name, where the run was told so: pytest --keep-screenshots."""

    def keep(page: Page, name: str) -> None:
        if request.config.getoption("--keep-screenshots"):
            write_screenshot(page, _IMAGES / name)

    return keep
