"""Debian's Chromium, driven by Playwright; and what a test may see of a page: its errors, its requests, its accessibility."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

_AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
# WCAG 2.2 up to AA, and what axe's authors recommend beside it.
_AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# In a container the caller is root and has no namespaces, and /dev/shm is small; a video plays without a click in either case.
_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


def chromium_path() -> str:
    """The browser; without one the test is skipped on a developer's machine and fails in CI."""
    path = shutil.which("chromium")
    if path is None:
        assert "CI" not in os.environ, "CI has chromium: .ci/run installs it"
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    return path


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless browser. While it runs, this thread has an event loop of Playwright's: no asynchronous test can run beside it."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)
class Watched:
    """A page and what it did.

    Attributes:
        errors: what it wrote to the console as an error or a warning, and exceptions that nobody caught.
        requests: every request, in order; those of an EventSource too.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def foreign_requests(self, origin: str) -> list[str]:
        """Those that left the origin; what the page made itself (blob:, data:) is no request."""
        urls = (request.url for request in self.requests)
        return [url for url in urls if not url.startswith((f"{origin}/", "blob:", "data:"))]

    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [urlsplit(request.url).path for request in self.requests]

    def violations(self) -> list[str]:
        """What axe finds wrong: rule, and where. Without axe-core it fails: `make install` brings it."""
        assert _AXE.is_file(), "axe-core is missing: run make install with npm at hand"
        if not self.page.evaluate("() => 'axe' in window"):
            # By the debugger, so that the page's policy, which allows no foreign script, stays as it is.
            self.page.evaluate(_AXE.read_text(encoding="utf-8") + "; undefined")
        options = {"runOnly": _AXE_TAGS, "resultTypes": ["violations"]}
        found: dict[str, Any] = self.page.evaluate("(options) => axe.run(document, options)", options)
        return [
            f"{violation['id']}: {json.dumps(node['target'])} {node.get('failureSummary', '')}"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]


@contextmanager
def watched_page(browser: Browser, **options: Any) -> Iterator[Watched]:
    """A page in a profile of its own, which forgets everything; options are those of a Playwright context."""
    context: BrowserContext = browser.new_context(**{"viewport": DESK, **options})
    context.set_default_timeout(30_000)
    try:
        watched = Watched(page=context.new_page())
        watched.page.on("console", lambda message: _note_message(watched, message))
        watched.page.on("pageerror", lambda error: watched.errors.append(f"uncaught: {error}"))
        watched.page.on("request", watched.requests.append)
        yield watched
    finally:
        context.close()


def _note_message(watched: Watched, message: Any) -> None:
    if message.type in ("error", "warning"):
        watched.errors.append(f"{message.text} ({message.location.get('url', '')})")
