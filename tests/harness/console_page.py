"""The console as an operator uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator

from tests.harness.browser import Watched, until, watched_page


class ConsolePage:
    """One open console. What it needs is found as a person finds it: by label and text."""

    def __init__(self, watched: Watched) -> None:
        """Over a page that shows the console."""
        self.watched = watched
        self.page = watched.page

    def open(self, url: str) -> None:
        """Opens it and waits until it asks for the key, or is live."""
        self.page.goto(f"{url}/console")
        self.page.locator("#login:not([hidden]), #state:not([hidden])").first.wait_for()

    def sign_in(self, key: str) -> None:
        """Types the key and waits for the state."""
        self.page.get_by_label("Admin key").fill(key)
        self.page.keyboard.press("Enter")
        self.wait_until_live()

    def wait_until_live(self) -> None:
        """Returns when the stream has told the state."""
        self.page.locator("#connection").get_by_text("live", exact=True).wait_for(timeout=60_000)

    @property
    def connection(self) -> str:
        """What it says of its stream."""
        return str(self.page.locator("#connection").inner_text())

    def tile(self, name: str) -> Locator:
        """Of a lane, a model, or the degraded pool."""
        return self.page.locator(".tile").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def badge(self, name: str) -> str:
        """The word in the tile's frame."""
        return str(self.tile(name).locator(".badge").inner_text())

    def wait_for_badge(self, name: str, text: str, timeout_s: float = 60.0) -> None:
        """Returns when the tile says so."""
        until(lambda: text in self.badge(name), f"the tile of {name} does not say {text!r}", timeout_s)

    def problems(self) -> list[str]:
        """The codes of what is listed as a problem."""
        return [str(item.get_attribute("data-code")) for item in self.page.locator("#problems > li").all()]

    def events(self) -> list[str]:
        """The names of the events that are shown, newest first."""
        return [str(text) for text in self.page.locator("#events tbody tr td:nth-child(2)").all_inner_texts()]

    def confirm(self, action: str) -> None:
        """Says yes to the question."""
        self.page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()


@contextmanager
def console_page(browser: Browser, url: str, **options: Any) -> Iterator[ConsolePage]:
    """A console that is open."""
    with watched_page(browser, **options) as watched:
        page = ConsolePage(watched)
        page.open(url)
        yield page
