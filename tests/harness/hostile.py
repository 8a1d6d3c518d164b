"""What a hostile image is for the tests, and what its kinds share."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from PIL import Image

GOOD, REFUSED = True, False


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file that a stranger may send.

    Attributes:
        name: its own.
        media_type: what the data URI says that it is.
        content: the file.
        is_good: whether it is a picture that must be taken; None: either answer is right.
    """

    name: str
    media_type: str
    content: bytes
    is_good: bool | None


@cache
def photo() -> Image.Image:
    """A small picture in which no two rows or columns are alike."""
    picture = Image.new("RGB", (64, 48))
    picture.putdata([(x * 5 % 256, y * 7 % 256, (x * y) % 256) for y in range(48) for x in range(64)])
    return picture


def cuts(name: str, media_type: str, content: bytes) -> Iterator[Hostile]:
    """The file cut short in many places."""
    for number in range(12):
        yield Hostile(f"{name}-cut-{number}", media_type, content[: max(1, len(content) * number // 12)], REFUSED)
    yield Hostile(f"{name}-last-byte-missing", media_type, content[:-1], REFUSED)


def exif_bomb(entries: int, size: int) -> bytes:
    """An EXIF block whose every entry claims all of its bytes as a value."""
    table = b"".join(struct.pack("<HHII", tag, 7, size, 0) for tag in range(1, entries + 1))
    return (b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + table).ljust(size + 6, b"\0")
