"""The pages as files: nothing in them needs more than their policy allows, and everything they name is there."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import http_bridge
from http_bridge.page_files import read_page_files
from http_bridge.routes.pages import PAGES

_FOLDER = Path(http_bridge.__file__).parent / "pages"
_MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc")
_URL = re.compile(r"https?://[^\s\"'`)]+")
_IMPORT = re.compile(r"""(?:from|import)\s+["']([^"']+)["']""")
# Names of vocabularies, never asked for.
_NAMES = {"http://www.w3.org/2000/svg"}


class _Reader(HTMLParser):
    """Collects what a page names, and what a strict policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.named: list[str] = []
        self.refused: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag == "script"
        values = dict(attrs)
        self.named += [value for name in ("src", "href") if (value := values.get(name))]
        self.refused += [f"<{tag} {name}>" for name in values if name == "style" or name.startswith("on")]
        if tag == "style":
            self.refused.append("<style>")

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.refused.append("a script in the page's text")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _names(end: str) -> list[str]:
    return sorted(path.name for path in _FOLDER.glob(f"*{end}"))


@pytest.mark.parametrize("name", _names(".html"))
def test_page_keeps_its_policy_when_it_is_read(name: str) -> None:
    reader = _Reader()
    reader.feed(_text(name))
    assert reader.refused == []
    files = read_page_files()
    local = [value.removeprefix("pages/") for value in reader.named if value.startswith("pages/")]
    assert local
    assert [value for value in local if value not in files] == []
    # Whatever else it names is relative too: a proxy may put a prefix before everything.
    assert [value for value in reader.named if value.startswith("/") or ":" in value] == []


@pytest.mark.parametrize("name", _names(".js"))
def test_script_makes_no_markup_from_text_and_names_no_other_host(name: str) -> None:
    text = _text(name)
    assert _MARKUP.findall(text) == []
    assert set(_URL.findall(text)) <= _NAMES
    assert [module for module in _IMPORT.findall(text) if module.removeprefix("./") not in read_page_files()] == []


def test_every_page_has_its_file_and_every_file_is_served() -> None:
    files = read_page_files()
    assert set(PAGES.values()) <= set(files)
    assert set(files) == {path.name for path in _FOLDER.iterdir() if path.suffix not in (".py", "") and path.is_file()}
