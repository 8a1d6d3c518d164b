"""docs/events.md lists exactly the events that the core records."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def _name(node: ast.AST) -> ast.AST | None:
    """The expression that names an event, where the node has one."""
    match node:
        case ast.keyword(arg="event_type", value=value):
            return value
        case ast.Assign(targets=[ast.Name(id="event_type")], value=value):
            return value
        case ast.Call(func=ast.Name(id="_event"), args=[_, _, name, *_]):
            return name
        case _:
            return None


def _recorded(tree: ast.AST) -> Iterator[str]:
    """The names of events that a module makes."""
    for node in ast.walk(tree):
        name = _name(node)
        if name is not None:
            yield from _texts(name)


def _listed(page: str) -> Iterator[str]:
    """The names in the first columns of the page's tables."""
    for row in re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE):
        yield from re.findall(r"`([a-z_]+)`", row)


def test_every_event_is_listed_once_and_none_that_is_not_recorded() -> None:
    modules = sorted((_ROOT / "admission" / "core").glob("*.py"))
    recorded = {name for module in modules for name in _recorded(ast.parse(module.read_text(encoding="utf-8")))}

    listed = list(_listed((_ROOT / "docs" / "events.md").read_text(encoding="utf-8")))

    assert sorted(listed) == sorted(recorded)
