"""ImportTask: takes one ended task of an earlier system with its files as they stream in; nothing of it is held whole but the preview."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from warmlane.admission.v1 import operator_service_pb2 as pb

from admission.core.tasks import Result, Task, TaskState
from admission.service.convert_imports import imported_task
from admission.service.errors import invalid
from runtime.images import InvalidImageError, check_image
from runtime.rules.request import Violation
from runtime.values import changed
from runtime.videos import HEAD_BYTES, video_type

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from admission.service.port import Controller, Landing
    from runtime.clock import Clock

MAX_CHUNK_BYTES = 1024 * 1024

# A sender that pauses for longer holds its place for nothing.
_PAUSE_S = 30.0
_EXTENSIONS = {"video/mp4": "mp4", "video/webm": "webm"}
_PREVIEW = "preview.jpg"


class Importer:
    """Takes over what the stream of one call brings."""

    def __init__(self, *, controller: Controller, clock: Clock) -> None:
        """Stores with this controller."""
        self._controller = controller
        self._clock = clock
        # A JPEG of 64 megapixels takes some 450 MB while it is decoded.
        self._decoding = asyncio.Semaphore(1)

    async def take(self, requests: AsyncIterator[pb.ImportTaskRequest]) -> pb.ImportTaskResponse:
        """Stores the task with its files, or nothing. Raises `validation_error` naming what is wrong, or what the controller raises."""
        first = await _next_part(requests)
        if first is None or first.WhichOneof("part") != "task":
            raise _wrong("task", "must come first")
        task = imported_task(first.task, self._clock.now().utc)
        async with self._controller.importing(task.task_id) as landing:
            if landing is None:
                # Before any file is read: an import that is repeated costs next to nothing.
                return pb.ImportTaskResponse(outcome=pb.IMPORT_OUTCOME_ALREADY_THERE)
            files = _Files(task, first.task, landing)
            while (part := await _next_part(requests)) is not None:
                await files.add(part)
            # The end of a stream that was cut off looks the same: what was announced must have come.
            files.check_whole()
            await landing.commit(await self._with_result(task, files, landing))
        return pb.ImportTaskResponse(outcome=pb.IMPORT_OUTCOME_IMPORTED)

    async def _with_result(self, task: Task, files: _Files, landing: Landing) -> Task:
        if task.state is not TaskState.DONE:
            return task
        await files.end()
        if files.preview:
            await self._check_preview(bytes(files.preview))
            await landing.write(_PREVIEW, bytes(files.preview))
        return changed(task, result=files.result())

    async def _check_preview(self, content: bytes) -> None:
        """In a thread, which nothing can stop: its place is free when it ends, not when the caller leaves."""
        await self._decoding.acquire()
        decoding = asyncio.get_running_loop().run_in_executor(None, check_image, content)
        decoding.add_done_callback(lambda _: self._decoding.release())
        try:
            image = await asyncio.shield(decoding)
        except InvalidImageError as error:
            raise _wrong("preview_chunk", str(error)) from error
        if image.media_type != "image/jpeg":
            raise _wrong("preview_chunk", f"must be a JPEG, not {image.media_type}")


class _Files:
    """The files of one task as they come in."""

    def __init__(self, task: Task, announced: pb.ImportedTask, landing: Landing) -> None:
        self.preview = bytearray()
        self._task = task
        self._announced = announced
        self._landing = landing
        self._name = f"video.{_EXTENSIONS.get(announced.media_type, '')}"
        # The first bytes, until there are enough of them to tell what they are.
        self._head: bytes | None = b""
        self._digest = hashlib.sha256()
        self._size_bytes = 0

    async def add(self, part: pb.ImportTaskRequest) -> None:
        """The next part after the task."""
        kind = part.WhichOneof("part")
        if kind == "task":
            raise _wrong("task", "must come once")
        if kind is None:
            raise _wrong("part", "must be set")
        if self._task.state is not TaskState.DONE:
            raise _wrong(kind, "only a done task has files")
        chunk = part.result_chunk if kind == "result_chunk" else part.preview_chunk
        if len(chunk) > MAX_CHUNK_BYTES:
            raise _wrong(kind, f"must have at most {MAX_CHUNK_BYTES} bytes")
        if kind == "result_chunk":
            await self._add_result(chunk)
            return
        self.preview += chunk
        if len(self.preview) > self._announced.preview_size_bytes:
            raise _wrong(kind, f"more came than the {self._announced.preview_size_bytes} bytes that were announced")

    def check_whole(self) -> None:
        """Raises `validation_error` when less came than was announced."""
        came = {
            "result": (self._size_bytes, self._announced.result_size_bytes),
            "preview": (len(self.preview), self._announced.preview_size_bytes),
        }
        for name, (came_bytes, announced_bytes) in came.items():
            if came_bytes < announced_bytes:
                raise _wrong(f"{name}_chunk", f"only {came_bytes} of the {announced_bytes} bytes that were announced came")

    async def end(self) -> None:
        """Everything has come: a video so short that it was not judged before is now."""
        if self._head is not None:
            await self._write(self._judged(self._head))

    def result(self) -> Result:
        """What is known of the video: of its size and length what was asked for, as far as that is known."""
        asked = self._task.parameters
        width, height, num_frames, fps = (
            value if isinstance(value := asked.get(name), int) else 0 for name in ("width", "height", "num_frames", "fps")
        )
        return Result(
            video_key=self._landing.key(self._name),
            media_type=self._announced.media_type,
            size_bytes=self._size_bytes,
            sha256=self._digest.hexdigest(),
            preview_key=self._landing.key(_PREVIEW) if self.preview else "",
            width=width,
            height=height,
            num_frames=num_frames,
            fps=fps,
        )

    async def _add_result(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > self._announced.result_size_bytes:
            raise _wrong("result_chunk", f"more came than the {self._announced.result_size_bytes} bytes that were announced")
        self._digest.update(chunk)
        if self._head is None:
            await self._write(chunk)
        elif len(self._head) + len(chunk) < HEAD_BYTES:
            self._head += chunk
        else:
            await self._write(self._judged(self._head + chunk))

    def _judged(self, head: bytes) -> bytes:
        """The same bytes, when they are of the kind that was said."""
        self._head = None
        found = video_type(head[:HEAD_BYTES])
        if found != self._announced.media_type:
            raise _wrong("result_chunk", f"The file is {found or 'neither MP4 nor WebM'}, not {self._announced.media_type}.")
        return head

    async def _write(self, chunk: bytes) -> None:
        await self._landing.write(self._name, chunk)


async def _next_part(requests: AsyncIterator[pb.ImportTaskRequest]) -> pb.ImportTaskRequest | None:
    """None at the end."""
    try:
        async with asyncio.timeout(_PAUSE_S):
            return await anext(requests, None)
    except TimeoutError:
        raise _wrong("part", f"did not come for {_PAUSE_S:g} s") from None


def _wrong(field: str, message: str) -> Exception:
    return invalid(Violation(field=field, message=message))
