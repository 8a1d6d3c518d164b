"""The SQLite file of an existing gallery, and where its videos are looked for."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from command_line.gallery import files
from command_line.gallery.database import UnusableGalleryError, open_gallery
from command_line.gallery.files import Folders, UnusableFileError
from tests.harness.imports import MP4, WEBM, jpeg
from tests.harness.old_gallery import COLUMNS, OldGallery


def test_every_row_is_read_when_there_are_more_than_are_read_at_a_time(tmp_path: Path) -> None:
    old = OldGallery(tmp_path)
    with closing(sqlite3.connect(old.file)) as connection, connection:
        connection.executemany("INSERT INTO tasks (rowid, id) VALUES (?, ?)", [(number, f"t{number}") for number in range(-250, 250)])
    with open_gallery(old.file) as gallery:
        assert gallery.total == 500
        assert [row["id"] for row in gallery.rows()] == [f"t{number}" for number in range(-250, 250)]


@pytest.mark.parametrize("kind", ["view", "without rowid"])
def test_rows_are_read_when_they_have_no_numbers(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "gallery.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        name = "other" if kind == "view" else "tasks"
        connection.execute(f"CREATE TABLE {name} (id TEXT PRIMARY KEY, status TEXT, model TEXT, created_at TEXT) WITHOUT ROWID")
        connection.execute(f"INSERT INTO {name} VALUES ('a', 'done', 'anisora', '2025-01-01')")  # noqa: S608 - one of two names
        if kind == "view":
            connection.execute("CREATE VIEW tasks AS SELECT * FROM other")
    with open_gallery(file) as gallery:
        assert [row["id"] for row in gallery.rows()] == ["a"]


def test_the_program_of_the_gallery_can_write_when_its_rows_are_being_read(tmp_path: Path) -> None:
    old = OldGallery(tmp_path)
    for number in range(3):
        old.add(f"t{number}")
    with open_gallery(old.file) as gallery:
        rows = gallery.rows()
        next(rows)
        with closing(sqlite3.connect(old.file, timeout=0.1)) as writer, writer:
            writer.execute("UPDATE tasks SET status = 'failed'")
        assert len(list(rows)) == 2


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_nothing_of_the_file_changes_when_it_is_read(tmp_path: Path, mode: str) -> None:
    old = OldGallery(tmp_path)
    with closing(sqlite3.connect(old.file)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    old.add("a")
    before = old.file.read_bytes()
    with open_gallery(old.file) as gallery:
        assert len(list(gallery.rows())) == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            gallery.connection.execute("DELETE FROM tasks")
    assert old.file.read_bytes() == before


def test_columns_are_named_when_the_table_lacks_some(tmp_path: Path) -> None:
    old = OldGallery(tmp_path, columns={name: kind for name, kind in COLUMNS.items() if name not in ("seed", "lane_mode")})
    with open_gallery(old.file) as gallery:
        assert gallery.missing == ("seed", "lane_mode")


def test_text_is_read_when_it_is_no_utf_8(tmp_path: Path) -> None:
    old = OldGallery(tmp_path)
    with closing(sqlite3.connect(old.file)) as connection, connection:
        connection.execute("INSERT INTO tasks (id, prompt) VALUES ('a', CAST(x'c3ff61' AS TEXT))")
    with open_gallery(old.file) as gallery:
        assert [row["prompt"] for row in gallery.rows()] == ["\ufffd\ufffda"]


def test_file_is_refused_when_it_is_no_gallery(tmp_path: Path) -> None:
    text, empty, other, lacking = (tmp_path / name for name in ("text.db", "empty.db", "other.db", "lacking.db"))
    text.write_text("no database at all, but long enough to be looked at" * 10, encoding="utf-8")
    empty.touch()
    for path, table in ((other, "songs (id TEXT)"), (lacking, "tasks (id TEXT, model TEXT)")):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE {table}")
    told = []
    for path in (tmp_path / "none.db", tmp_path, text, empty, other, lacking):
        with pytest.raises(UnusableGalleryError) as caught, open_gallery(path):
            pass
        told.append(str(caught.value))
    for sentence, part in zip(
        told, ("is not there", "no file", "not a database", "no table tasks", "no table tasks", "lacks status, created_at"), strict=True
    ):
        assert part in sentence


def test_reading_ends_with_a_reason_when_the_file_is_damaged(tmp_path: Path) -> None:
    old = OldGallery(tmp_path)
    for number in range(200):
        old.add(f"t{number}")
    content = bytearray(old.file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    old.file.write_bytes(content)
    with pytest.raises(UnusableGalleryError, match="SQLite cannot read it"), open_gallery(old.file) as gallery:
        list(gallery.rows())


# Files


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A gallery's folder with videos, one beside it that is not the gallery's, and a folder of moved files."""
    for name in ("gallery/outputs/a.mp4", "private/secret.mp4", "moved/deep/b.mp4", "moved/c.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MP4)
    return Folders((tmp_path / "gallery", tmp_path / "moved"))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("outputs/a.mp4", "gallery/outputs/a.mp4"),
        ("./outputs/../outputs/a.mp4", "gallery/outputs/a.mp4"),
        ("deep/b.mp4", "moved/deep/b.mp4"),
        ("/elsewhere/on/another/machine/c.mp4", "moved/c.mp4"),
    ],
)
def test_file_is_found_when_it_is_in_one_of_the_folders(tmp_path: Path, folders: Folders, path: str, found: str) -> None:
    assert folders.find(path) == tmp_path / found


def test_absolute_path_is_taken_when_it_is_there(tmp_path: Path, folders: Folders) -> None:
    assert folders.find(str(tmp_path / "private/secret.mp4")) == tmp_path / "private/secret.mp4"


@pytest.mark.parametrize("path", ["../private/secret.mp4", "outputs/../../private/secret.mp4", "link.mp4", "linked/secret.mp4"])
def test_file_is_refused_when_a_relative_path_leads_out_of_the_folder(tmp_path: Path, folders: Folders, path: str) -> None:
    (tmp_path / "gallery/link.mp4").symlink_to(tmp_path / "private/secret.mp4")
    (tmp_path / "gallery/linked").symlink_to(tmp_path / "private")
    with pytest.raises(UnusableFileError, match="leads out"):
        folders.find(path)


@pytest.mark.parametrize("path", ["", ".", "outputs", "nothing.mp4", "/", "/nothing.mp4", "a\0b", "x" * 5000, "circle", "pipe"])
def test_file_is_refused_when_it_is_none(tmp_path: Path, folders: Folders, path: str) -> None:
    (tmp_path / "gallery/circle").symlink_to(tmp_path / "gallery/circle")
    # Reading it would never end.
    os.mkfifo(tmp_path / "gallery/pipe")
    with pytest.raises(UnusableFileError):
        folders.find(path)


def test_kind_of_a_file_is_told_by_its_content_when_its_name_says_another(tmp_path: Path) -> None:
    video, web, page, empty = (tmp_path / name for name in ("a.webm", "b.mp4", "c.mp4", "d.mp4"))
    for path, content in ((video, MP4), (web, WEBM), (page, b"<html>"), (empty, b"")):
        path.write_bytes(content)
    assert [files.look_at_video(path) for path in (video, web)] == [("video/mp4", len(MP4)), ("video/webm", len(WEBM))]
    for path in (page, empty):
        with pytest.raises(UnusableFileError, match="neither"):
            files.look_at_video(path)
    video.write_bytes(jpeg())
    assert files.preview(video) == jpeg()
    with pytest.raises(UnusableFileError, match="no JPEG"):
        files.preview(web)
