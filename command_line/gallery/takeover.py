"""Row after row: finds a row's files, has admission take it over, and keeps the report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from warmlane.admission.v1 import operator_service_pb2, task_pb2

from command_line.client import AdmissionClient
from command_line.gallery import files
from command_line.gallery.database import Row
from command_line.gallery.report import Report
from command_line.gallery.rows import StaysBehind, Wanted, read_row, shown
from runtime.errors import ErrorCode, ServiceError

_CHUNK_BYTES = 512 * 1024
_PREVIEW_FIELD = "preview_chunk"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A row's files: the video of a done one, the preview where there is one, and why there is none where there should be."""

    video: Path | None = None
    preview: bytes = b""
    preview_problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Takeover:
    """One run.

    Attributes:
        folders: where files are looked for.
        client: admission; None for a dry run.
        report: is filled in.
        failed_unfinished: tasks that had not ended become failed ones.
        on_row: is told after every row.
    """

    folders: files.Folders
    client: AdmissionClient | None
    report: Report
    failed_unfinished: bool
    on_row: Callable[[], None]

    async def run(self, rows: Iterable[Row]) -> None:
        """Deals with every row. Raises ServiceError when admission is away for too long, or does not let this caller import."""
        for row in rows:
            self.report.rows += 1
            found = read_row(row, failed_unfinished=self.failed_unfinished)
            if isinstance(found, StaysBehind):
                self.report.stays(found)
            else:
                await self._take(found)
            self.on_row()

    async def _take(self, wanted: Wanted) -> None:
        try:
            found = await asyncio.to_thread(self._find, wanted)
            is_new, preview_problem = await self._brought(wanted, found)
        except files.UnusableFileError as error:
            self.report.refused(wanted, str(error))
        except ServiceError as error:
            if error.code != ErrorCode.VALIDATION_ERROR:
                raise
            self.report.refused(wanted, "; ".join(f"{one.field} {one.message}" for one in error.violations))
        else:
            self.report.taken(wanted, is_new=is_new, preview_problem=preview_problem)

    def _find(self, wanted: Wanted) -> _Found:
        """The row's files; says of what kind the video is. Raises UnusableFileError for a done row without its video."""
        if wanted.task.state != task_pb2.TASK_STATE_DONE:
            return _Found()
        if not wanted.result:
            raise files.UnusableFileError("it has no result_path")
        try:
            video = self.folders.find(wanted.result)
            wanted.task.media_type, wanted.task.result_size_bytes = files.look_at_video(video)
        except files.UnusableFileError as error:
            msg = f"its result {shown(wanted.result)} {error}"
            raise files.UnusableFileError(msg) from error
        try:
            preview = files.preview(self.folders.find(wanted.preview)) if wanted.preview else b""
        except files.UnusableFileError as error:
            return _Found(video=video, preview_problem=f"{shown(wanted.preview)} {error}")
        return _Found(video=video, preview=preview)

    async def _brought(self, wanted: Wanted, found: _Found) -> tuple[bool, str]:
        """Whether it is new, and why it came without a preview."""
        if self.client is None:
            return True, found.preview_problem
        try:
            return await self.client.import_task(lambda: _parts(wanted.task, found.video, found.preview)), found.preview_problem
        except ServiceError as error:
            if not found.preview or [one.field for one in error.violations] != [_PREVIEW_FIELD]:
                raise
            # A video is worth more than its preview.
            problem = f"is refused: {error.violations[0].message}"
        return await self.client.import_task(lambda: _parts(wanted.task, found.video, b"")), problem


async def _parts(
    task: operator_service_pb2.ImportedTask, video: Path | None, preview: bytes
) -> AsyncGenerator[operator_service_pb2.ImportTaskRequest, None]:
    """The task, then its files. Raises UnusableFileError when the video cannot be read to its end, or is another one by now."""
    task.preview_size_bytes = len(preview)
    yield operator_service_pb2.ImportTaskRequest(task=task)
    for start in range(0, len(preview), _CHUNK_BYTES):
        yield operator_service_pb2.ImportTaskRequest(preview_chunk=preview[start : start + _CHUNK_BYTES])
    if video is None:
        return
    left_bytes = task.result_size_bytes
    try:
        file = await asyncio.to_thread(video.open, "rb")
        try:
            while (chunk := await asyncio.to_thread(_read, file)) and len(chunk) <= left_bytes:
                left_bytes -= len(chunk)
                yield operator_service_pb2.ImportTaskRequest(result_chunk=chunk)
        finally:
            file.close()
    except OSError as error:
        msg = f"its result cannot be read ({error.strerror})"
        raise files.UnusableFileError(msg) from error
    if chunk or left_bytes:
        raise files.UnusableFileError("its result changed while it was read; run it again")


def _read(file: BinaryIO) -> bytes:
    return file.read(_CHUNK_BYTES)
