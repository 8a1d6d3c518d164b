"""Where the files of an existing gallery lie, and what they are by how they begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime.images import MAX_IMAGE_BYTES
from runtime.videos import HEAD_BYTES, MAX_VIDEO_BYTES, video_type

_JPEG = b"\xff\xd8\xff"


class UnusableFileError(Exception):
    """A file cannot be taken; the message says why."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where relative paths begin, in the order in which they are tried: the folder of the database, then that of the files."""

    roots: tuple[Path, ...]

    def find(self, path: str) -> Path:
        """The file that the path means. Raises UnusableFileError.

        A relative one must stay in its folder, links followed. An absolute one that is not there is looked for by its name in the last
        folder: the gallery may come from another machine.
        """
        try:
            return self._absolute(Path(path)) if Path(path).is_absolute() else self._relative(path)
        except (OSError, ValueError, RuntimeError) as error:
            # Too long, a NUL, a circle of links.
            msg = f"cannot be looked for ({type(error).__name__})"
            raise UnusableFileError(msg) from error

    def _absolute(self, path: Path) -> Path:
        for candidate in (path, *(root / path.name for root in self.roots[1:])):
            if path.name and candidate.is_file():
                return candidate
        raise UnusableFileError("is not there")

    def _relative(self, path: str) -> Path:
        is_outside = False
        for root in self.roots:
            candidate = (root / path).resolve()
            if not candidate.is_relative_to(root.resolve()):
                is_outside = True
            elif candidate.is_file():
                return candidate
        if is_outside:
            raise UnusableFileError("leads out of the gallery's folder; name the folder that it is in with --files")
        raise UnusableFileError("is not there")


def look_at_video(path: Path) -> tuple[str, int]:
    """Its media type and its size in bytes. Raises UnusableFileError when it is none that can be taken over."""
    found = video_type(_head(path))
    if found is None:
        raise UnusableFileError("is neither MP4 nor WebM")
    size_bytes = _size_bytes(path)
    if size_bytes > MAX_VIDEO_BYTES:
        msg = f"is larger than {MAX_VIDEO_BYTES // 1024**3} GiB"
        raise UnusableFileError(msg)
    return found, size_bytes


def preview(path: Path) -> bytes:
    """The content of a preview. Raises UnusableFileError when it is no JPEG that can be taken over."""
    if not _head(path).startswith(_JPEG):
        raise UnusableFileError("is no JPEG")
    if _size_bytes(path) > MAX_IMAGE_BYTES:
        msg = f"is larger than {MAX_IMAGE_BYTES // 1024**2} MiB"
        raise UnusableFileError(msg)
    with _told():
        return path.read_bytes()


def _head(path: Path) -> bytes:
    with _told(), path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _size_bytes(path: Path) -> int:
    with _told():
        return path.stat().st_size


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"cannot be read ({error.strerror})"
        raise UnusableFileError(msg) from error
