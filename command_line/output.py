"""Writes the video of a task to a file that is either whole or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from warmlane.admission.v1 import task_pb2

from command_line.client import AdmissionClient
from command_line.failures import CommandError, ExitCode


def check_output(path: Path) -> None:
    """Refuses, before anything is rendered, a place that cannot be written. Raises CommandError."""
    folder = path.parent
    if not folder.is_dir():
        msg = f"--output {path}: the folder {folder} does not exist."
        raise CommandError(msg)
    if path.is_dir() or not os.access(folder, os.W_OK):
        msg = f"--output {path}: a file cannot be written there."
        raise CommandError(msg)


async def save_video(client: AdmissionClient, task: task_pb2.Task, path: Path) -> None:
    """Reads the video into a temporary file beside `path`, checks it, and renames it.

    Raises:
        CommandError: the disk refused it, or what came is not what was rendered.
        ServiceError: it could not be read.
    """
    digest = hashlib.sha256()
    try:
        with _replaced(path) as file:

            def write(chunk: bytes) -> None:
                digest.update(chunk)
                file.write(chunk)

            await client.read_video(task.task_id, write)
            if digest.hexdigest() != task.result.sha256:
                msg = f"the video of {task.task_id} came damaged; nothing was written. Read it again with `warmlane watch`."
                raise CommandError(msg, exit_code=ExitCode.UNAVAILABLE)
    except OSError as error:
        msg = f"--output {path}: {error.strerror}. The video is kept by admission under task {task.task_id}."
        raise CommandError(msg) from error


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place at the end, unless an exception comes first."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            # A temporary file is for its owner only; the video gets the rights that any new file would.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
