"""An existing gallery as an earlier system left it: a SQLite file and a folder of videos."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.harness.imports import MP4, jpeg

COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    **dict.fromkeys(("status", "model", "type", "mode", "prompt", "negative_prompt", "parameters"), "TEXT"),
    **dict.fromkeys(("progress", "width", "height", "seed"), "INTEGER"),
    **dict.fromkeys(("result_path", "preview_path", "error_msg", "stage", "stage_detail"), "TEXT"),
    **dict.fromkeys(("lane_mode", "fallback_reason", "created_at", "updated_at"), "TEXT"),
}
"""Of the table `tasks`."""


class OldGallery:
    """A gallery in a folder of its own."""

    def __init__(self, folder: Path, *, columns: dict[str, str] = COLUMNS) -> None:
        """Empty, with this table."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "gallery.db"
        with closing(sqlite3.connect(self.file)) as connection, connection:
            connection.execute(f"CREATE TABLE tasks ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")

    def add(self, task_id: str, **values: Any) -> dict[str, Any]:
        """A row: a done task with its files below `outputs`, but for what is given."""
        row = {
            "id": task_id,
            "status": "done",
            "progress": 100,
            "model": "anisora",
            "type": "video",
            "mode": "t2v",
            "prompt": f"a lake, take {task_id}",
            "negative_prompt": "",
            "parameters": json.dumps({"num_frames": 17, "fps": 16, "steps": 8}),
            "width": 512,
            "height": 256,
            "seed": 7,
            "result_path": f"outputs/{task_id}.mp4",
            "preview_path": f"outputs/{task_id}.jpg",
            "stage": "completed",
            "created_at": "2025-03-01T10:00:00",
            "updated_at": "2025-03-01T10:04:30.125000Z",
            **values,
        }
        row = {name: value for name, value in row.items() if name not in values or values[name] is not ...}
        with closing(sqlite3.connect(self.file)) as connection, connection:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO tasks ({', '.join(row)}) VALUES ({marks})", list(row.values()))  # noqa: S608 - names of the test's
        return row

    def write(self, task_id: str, video: bytes = MP4, preview: bytes | None = None) -> None:
        """The files of a row."""
        outputs = self.folder / "outputs"
        outputs.mkdir(exist_ok=True)
        (outputs / f"{task_id}.mp4").write_bytes(video)
        (outputs / f"{task_id}.jpg").write_bytes(jpeg() if preview is None else preview)

    def done(self, task_id: str, **values: Any) -> None:
        """A done row with its files."""
        self.write(task_id)
        self.add(task_id, **values)
