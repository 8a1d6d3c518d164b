"""The URL decides which store is used."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import pytest

from admission.store.factory import open_store
from admission.store.memory import MemoryStore
from admission.store.sql import SqlStore

FORMS = "|".join(re.escape(form) for form in ("sqlite:///path/to/file.db", "postgresql://user:password@host:5432/database"))


def test_a_sqlite_url_gives_the_durable_store_when_it_names_a_file(tmp_path: Path) -> None:
    assert isinstance(open_store(f"sqlite:///{tmp_path / 'a.db'}"), SqlStore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_postgresql_url_gives_the_durable_store_when_it_names_a_database(scheme: str) -> None:
    # Nobody is there: nothing is touched before the store is opened.
    assert isinstance(open_store(f"{scheme}://user:secret@127.0.0.1:1/warmlane?sslmode=disable"), SqlStore)


def test_the_memory_url_gives_the_store_that_forgets_when_asked() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


@pytest.mark.parametrize(
    "url",
    ["", "admission.db", "/data/admission.db", "sqlite", "sqlite:", "sqlite:admission.db", "sqlite://", "sqlite:///", "sqlite:///:memory:",
     "sqlite:///file:a.db?uri=true", "sqlite://host/a.db", "sqlite+aiosqlite:///a.db", "memory", "postgres://localhost/warmlane",
     "postgresql:", "postgresql://localhost", "postgresql+asyncpg://localhost/warmlane", "postgresql://localhost:port/warmlane"],
)  # fmt: skip
def test_a_url_is_refused_with_the_right_form_when_it_names_no_store(url: str) -> None:
    with pytest.raises(ValueError, match=FORMS):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret@localhost/warmlane",
        "postgresql://user:secret@localhost",
        "postgresql+asyncpg://user:secret@localhost/warmlane",
        "postgresql://user:secret@localhost:port/warmlane",
        "sqlite://user:secret@localhost/warmlane",
    ],
)
def test_a_password_stays_out_of_the_error_when_a_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=FORMS) as caught:
        open_store(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
