"""The try page as a person uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator

from tests.harness.browser import Watched, until, watched_page
from tests.harness.video import data_uri

_DROP = """([selector, uri, name, type]) => {
  const bytes = Uint8Array.from(atob(uri.split(",")[1]), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const place = document.querySelector(selector).closest(".picture");
  for (const kind of ["dragover", "drop"]) {
    place.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


class TryPage:
    """One open page. What it needs is found as a person finds it: by label and text."""

    def __init__(self, watched: Watched) -> None:
        """Over a page that shows the try page."""
        self.watched = watched
        self.page = watched.page

    def open(self, url: str) -> None:
        """Opens it and waits for the form."""
        self.page.goto(f"{url}/")
        self.prompt.wait_for()

    @property
    def prompt(self) -> Locator:
        """Where the prompt is written."""
        return self.page.get_by_label("Prompt", exact=True)

    @property
    def submit(self) -> Locator:
        """The button that sends the form."""
        return self.page.get_by_role("button", name="Make the video")

    @property
    def video(self) -> Locator:
        """The video that was made."""
        return self.page.locator("#result video")

    def choose(self, label: str) -> None:
        """Chooses a model or a mode."""
        self.page.get_by_role("radio", name=label, exact=True).check()

    def set_frames(self, frames: int) -> None:
        """Moves the slider as a hand would."""
        self.page.get_by_label("Length").fill(str(frames))

    def drop(self, selector: str, content: bytes, *, name: str = "boat.png", media_type: str = "image/png") -> None:
        """Drops a file onto the place of this input."""
        self.page.evaluate(_DROP, [selector, data_uri(content, media_type), name, media_type])

    def problem(self, control: Locator) -> str:
        """Waits until something is said to be wrong with a control, as a screen reader says it too; gives that."""
        return str(until(lambda: self._problem(control), "nothing is said to be wrong"))

    def _problem(self, control: Locator) -> str:
        if control.get_attribute("aria-invalid") != "true":
            return ""
        ids = (control.get_attribute("aria-describedby") or "").split()
        return str(self.page.locator(f"#{next(name for name in ids if name.endswith('-problem'))}").inner_text())

    def stage(self) -> str:
        """What a screen reader was told last."""
        return str(self.page.locator("#announcer").inner_text())

    def cancel(self) -> None:
        """Cancels the task and waits for that."""
        self.page.get_by_role("button", name="Cancel", exact=True).click()
        self.page.get_by_text("Cancelled. The next video appears here.").first.wait_for()

    def wait_until_it_plays(self) -> None:
        """Returns when the video's picture moves."""
        self.video.wait_for(timeout=60_000)
        playing = "(() => { const v = document.querySelector('#result video'); return v.readyState >= 2 && v.currentTime > 0.05; })()"
        self.watched.until(playing)
        assert self.video.evaluate("(video) => [video.error, video.paused, video.videoWidth > 0]") == [None, False, True]


@contextmanager
def try_page(browser: Browser, url: str, **options: Any) -> Iterator[TryPage]:
    """A page that is open."""
    with watched_page(browser, **options) as watched:
        page = TryPage(watched)
        page.open(url)
        yield page
