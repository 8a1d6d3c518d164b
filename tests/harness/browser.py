"""Debian's Chromium, driven by Playwright; and what a test may see of a page: its errors, its requests, its accessibility."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

_AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
# WCAG 2.2 up to AA, and what axe's authors recommend beside it.
_AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# In a container the caller is root and has no namespaces, and /dev/shm is small; a video plays without a click in either case.
_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]

# Of this page, its files and its calls, as the browser counted them.
_RECEIVED = """(but) => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter((entry) => !entry.name.includes(but))
  .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
_LOOK_S = 0.03
_SHOT_WIDTH = 1000
_SHOT_COLOURS = 64

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


def until(condition: Callable[[], Any], problem: str, timeout_s: float = 30.0) -> Any:
    """What the condition gives once that is true."""
    ends_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < ends_s, f"{problem} within {timeout_s:g} s"
        time.sleep(_LOOK_S)
    return value


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

    def note_message(self, message: Any) -> None:
        """Something was written to the console."""
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def note_error(self, error: Any) -> None:
        """An exception was not caught."""
        self.errors.append(f"uncaught: {error}")

    def note_request(self, request: Request) -> None:
        """Something was asked for."""
        self.requests.append(request)

    def until(self, script: str, timeout_s: float = 30.0) -> Any:
        """What the expression gives once that is true. Playwright's own waiting evaluates text in the page, which its policy forbids."""
        return until(lambda: self.page.evaluate(script), f"{script} did not become true", timeout_s)

    def foreign_requests(self, origin: str) -> list[str]:
        """Those that left the origin; what the page made itself (blob:, data:) is no request."""
        urls = (request.url for request in self.requests)
        return [url for url in urls if not url.startswith((f"{origin}/", "blob:", "data:"))]

    def paths(self) -> list[str]:
        """The paths that were asked for."""
        return [urlsplit(request.url).path for request in self.requests]

    def received_bytes(self, *, but: str) -> int:
        """What came over the wire so far, bodies as they travelled, of every reply that is complete; `but` is part of URLs to leave out."""
        return int(self.page.evaluate(_RECEIVED, but))

    def violations(self) -> list[str]:
        """What axe finds wrong: rule, and where. Without axe the test is skipped on a developer's machine and fails in CI."""
        if not _AXE.is_file():
            assert "CI" not in os.environ, "CI has axe-core: make install brings it where there is npm"
            pytest.skip("axe-core is not installed (make install, with npm at hand)")
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
        watched.page.on("console", watched.note_message)
        watched.page.on("pageerror", watched.note_error)
        watched.page.on("request", watched.note_request)
        yield watched
    finally:
        context.close()


def write_screenshot(page: Page, path: Path) -> None:
    """The top of what the window shows, as a PNG of few colours: small enough for a repository."""
    page.evaluate("scrollTo(0, 0)")
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = shot.resize((_SHOT_WIDTH, shot.height * _SHOT_WIDTH // shot.width), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    # This way the few colours of the page are not lost among the many of a video.
    small.quantize(_SHOT_COLOURS, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
