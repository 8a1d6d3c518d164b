"""The URL decides which store is used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from admission.store.factory import open_store
from admission.store.memory import MemoryStore
from admission.store.sql import SqlStore


def test_a_sqlite_url_gives_the_durable_store_when_it_names_a_file(tmp_path: Path) -> None:
    assert isinstance(open_store(f"sqlite:///{tmp_path / 'a.db'}"), SqlStore)
    assert list(tmp_path.iterdir()) == []


def test_the_memory_url_gives_the_store_that_forgets_when_asked() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize(
    "url",
    ["", "admission.db", "/data/admission.db", "postgresql://localhost/warmlane", "sqlite", "sqlite:", "sqlite:admission.db", "sqlite://",
     "sqlite:///", "sqlite:///:memory:", "sqlite:///file:a.db?uri=true", "sqlite://host/a.db", "sqlite+aiosqlite:///a.db", "memory"],
)  # fmt: skip
def test_a_url_is_refused_with_the_right_form_when_it_names_no_store(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("sqlite:///path/to/file.db")):
        open_store(url)


def test_a_password_stays_out_of_the_error_when_a_url_is_refused() -> None:
    with pytest.raises(ValueError, match="sqlite:///path") as caught:
        open_store("postgresql://user:secret@localhost/warmlane")
    assert "secret" not in str(caught.value)
