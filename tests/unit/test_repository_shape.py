"""The shape of the repository: sizes, names, docstrings, nothing that belongs to one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("admission", "command_line", "degraded_pool", "http_bridge", "lane_anisora", "lane_phr00t", "runtime")
GENERATED = "protos/gen/"

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_FILE_BYTES = 1024 * 1024

_FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}
# The usual places of checkouts and home folders.
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/[A-Za-z0-9_.-]+")


@cache
def _files() -> tuple[Path, ...]:
    """What git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    return tuple(path for name in sorted(set(listed.split("\0"))) if name and (path := ROOT / name).is_file())


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _modules() -> tuple[tuple[str, str], ...]:
    """Name and text of every Python file that people edit."""
    return tuple(
        (_name(path), path.read_text(encoding="utf-8"))
        for path in _files()
        if path.suffix == ".py" and not _name(path).startswith(GENERATED)
    )


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.fixture(autouse=True)
def _needs_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("the sources lie here without their repository")


def test_no_module_is_longer_than_the_limit_when_all_are_counted() -> None:
    assert [name for name, text in _modules() if text.count("\n") > MAX_MODULE_LINES] == []


def test_no_function_is_longer_than_the_limit_when_all_are_counted() -> None:
    long = [
        f"{name}: {node.name}"
        for name, text in _modules()
        for node in _functions(text)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_no_module_has_a_name_that_says_nothing_when_all_are_looked_at() -> None:
    assert [name for name, _text in _modules() if _FORBIDDEN_NAMES & set(name.removesuffix(".py").split("/"))] == []


def test_every_module_says_what_it_owns_when_it_has_content() -> None:
    silent = [name for name, text in _modules() if text.strip() and ast.get_docstring(ast.parse(text)) is None]
    assert silent == []


def test_every_package_says_what_it_owns_when_it_is_shipped() -> None:
    packages = [(name, text) for name, text in _modules() if name.split("/")[0] in PACKAGES and name.endswith("/__init__.py")]
    assert {name.split("/")[0] for name, _text in packages} == set(PACKAGES)
    assert [name for name, text in packages if ast.get_docstring(ast.parse(text)) is None] == []


def test_no_file_names_a_place_of_one_machine_when_all_are_read() -> None:
    found = []
    for path in _files():
        if path == Path(__file__).resolve() or _name(path).startswith(GENERATED):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{_name(path)}: {match.group()}" for match in _MACHINE_PATH.finditer(text)]
    assert found == []


def test_no_file_is_larger_than_the_limit_when_all_are_weighed() -> None:
    assert [_name(path) for path in _files() if path.stat().st_size > MAX_FILE_BYTES] == []
