"""Gives a folder of parts, however it was made, the manifest that a lane of the a10g profile asks for."""

from __future__ import annotations

import hashlib
from pathlib import Path


def write_manifest(folder: Path, model: str, *, variant: str = "") -> Path:
    """Writes a manifest of what lies in a model's folder; returns the folder."""
    from runtime.lane.wan.manifest import FILE_NAME, FORMAT, FileEntry, Manifest

    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != FILE_NAME]
    manifest = Manifest(
        format=FORMAT,
        model=model,
        variant=variant or {"anisora": "v3.2", "phr00t": "mega-v12"}[model],
        storage="fp8",
        sizes="trial",
        parts=tuple(sorted({path.parent.name for path in files if path.suffix == ".safetensors"})),
        sources=(),
        files=tuple(
            FileEntry(
                path=path.relative_to(folder).as_posix(),
                size_bytes=path.stat().st_size,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in files
        ),
        tool="tests",
    )
    (folder / FILE_NAME).write_text(manifest.text(), encoding="utf-8")
    return folder
