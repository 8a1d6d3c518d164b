"""Links between pages: every file and every heading that one names is there, and every page is in the index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
_ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:")


def _links(page: Path) -> Iterator[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    # The text of a link may be code; what looks like a link within code is none.
    text = _CODE.sub("code", text)
    return (match[1] for match in _LINK.finditer(text) if not _ELSEWHERE.match(match[1]))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Names of the headings, as GitHub makes them: lower case, no punctuation, blanks as hyphens, a number behind repeated ones."""
    seen: dict[str, int] = {}
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return frozenset(found)


def broken(page: Path) -> list[str]:
    """Links of the page that lead nowhere."""
    found = []
    for link in _links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / unquote(target)).resolve() if target else page
        is_there = path.exists() and path.is_relative_to(ROOT)
        if not is_there or (anchor and (path.suffix != ".md" or anchor not in anchors(path))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere_when_it_stays_within_the_repository(page: Path) -> None:
    assert broken(page) == []


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in _links(index)}
    pages = {page for page in PAGES if page != index and page.parent.name != "adr"} | {ROOT / "docs" / "adr" / "README.md"}
    assert {page.relative_to(ROOT).as_posix() for page in pages - named} == set()


def test_link_is_found_to_be_broken_when_file_or_heading_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_links.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`: three?\n## Twice\n## Twice\n```\n[no](link.md)\n```\n`[no](link.md)` [a](page.md#one-two-three) [b](#twice-1)\n"
        "[gone](gone.md) [x](#nowhere) [web](https://example.org/x) [`code`](page.md#twice-2)\n"
    )
    assert broken(page) == ["gone.md", "#nowhere", "page.md#twice-2"]
