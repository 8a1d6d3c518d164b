"""The one browser of the tests of the pages; they share the running stack with the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.harness.browser import running_chromium


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """A headless browser. It ends with the last of these tests: what comes after may need the event loop of this thread."""
    with running_chromium() as browser:
        yield browser
