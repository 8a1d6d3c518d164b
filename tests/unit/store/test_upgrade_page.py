"""docs/howto/upgrade.md: the copy of a database is whole although its admission goes on writing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from admission.store.sql import SqlStore
from tests.harness.fenced import Shell, steps

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "howto" / "upgrade.md"


async def test_copy_is_whole_when_the_database_is_open(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path / 'admission.db'}")
    await store.open()
    try:
        epoch = await store.claim_epoch()
        (backup,) = steps(_PAGE.read_text(encoding="utf-8"))
        Shell(tmp_path, {"DATABASE": str(tmp_path / "admission.db")}).run(backup)
    finally:
        await store.close()
    assert (tmp_path / "admission-backup.db").stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(tmp_path / "admission-backup.db")) as copy:
        assert copy.execute("SELECT epoch FROM controller").fetchone() == (epoch,)
