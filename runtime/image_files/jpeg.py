"""JPEG: refuses by its segments what would cost too much to decode, then decodes every pixel at an eighth of the size."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from runtime.image_files.limits import DamagedError, Facts, InvalidImageError, check_size

MAX_JPEG_SCANS = 100
"""Passes over the picture that a JPEG may ask for.

libjpeg's own script for progressive colour has 10, tools that search for the smallest file write some tens; the format itself allows any
number of repeats, each a pass over all pixels.
"""

# A scan visits the blocks (8 x 8) of the components that it names, at up to 40 ns each. Ordinary progressive colour of 64 megapixels takes
# 8 million visits.
_MAX_VISITS = 10_000_000
# A picture in several scans is held as coefficients, two bytes each, until it is complete. 64 megapixels with halved colour take 183 MiB.
_MAX_COEFFICIENT_BYTES = 250 * 1024 * 1024
_COEFFICIENT_BYTES_OF_BLOCK = 128

_START_OF_SCAN = 0xDA
_START = 0xD8
_END = 0xD9
_EXIF = 0xE1
# Application data but JFIF's (E0) and Adobe's (EE), which say what the colours mean; and comments.
_DESCRIPTIONS = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
_BASELINE_OR_EXTENDED = (0xC0, 0xC1)
# C0 to CF but tables (C4), an extension (C8) and arithmetic conditioning (CC).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ARITHMETIC = frozenset(range(0xC9, 0xD0)) - {0xCC}
# Where a decoder may find the next segment: not at stuffing (FF 00), fill bytes (FF FF) and restarts (FF D0 to FF D7).
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
# Markers below this one carry no length.
_FIRST_SEGMENT = 0xC0
# Tables, comments and scans before the end of the picture; a profile or metadata of 12 MiB is some 200 of them.
_MAX_SEGMENTS = 5_000
# Bytes between segments before the first scan. The reader goes over them one by one, and no encoder writes any.
_MAX_JUNK_BYTES = 64 * 1024

# Fill bytes in a row. A decoder that gets the file piece by piece begins anew at the first of them with each piece.
_FILL = b"\xff" * _MAX_JUNK_BYTES

_TOO_MANY_SCANS = f"The JPEG has more than {MAX_JPEG_SCANS} scans; save it again as an ordinary JPEG."
_TOO_COSTLY = "The JPEG is too large for its many scans; save it again as a baseline JPEG (not progressive)."
_NO_ARITHMETIC = "The JPEG is arithmetic-coded, which browsers do not read either; save it again as an ordinary JPEG."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """One piece of a file, from its marker at `start` to `end`."""

    marker: int
    data: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The picture as its frame header describes it: each component's id and number of blocks, and whether it comes in passes by design."""

    components: tuple[tuple[int, int], ...] = ()
    is_progressive: bool = False

    def blocks(self, ids: bytes) -> int:
        """Of the components with these ids. Ids should differ; where they do not, every one that is meant may be."""
        return sum(blocks for ident, blocks in self.components if ident in ids)

    def coefficient_bytes(self) -> int:
        """Memory of the whole picture before it is made into pixels."""
        return sum(blocks for _, blocks in self.components) * _COEFFICIENT_BYTES_OF_BLOCK


def check_jpeg(content: bytes) -> Facts:
    """Reads the whole picture; what lies behind its end is not looked at.

    Raises:
        InvalidImageError: it is too large, or would cost too much.
        DamagedError, OSError and whatever else decoders raise: it is corrupt or cut short.
    """
    exif = _check_cost(content)
    with Image.open(io.BytesIO(plain_jpeg(content)), formats=["JPEG"]) as image:
        width, height = image.size
        # Every coefficient is read, but one pixel in 64 is made: a sixtieth of the memory.
        image.draft(None, (1, 1))
        image.load()
    return Facts(width=width, height=height, exif=exif)


def plain_jpeg(content: bytes) -> bytes:
    """The same picture without what only describes it: EXIF, profiles, further pictures, comments."""
    kept = [content[:2]]
    for segment in _segments(content):
        if segment.marker == _START_OF_SCAN:
            kept.append(content[segment.start :])
            break
        if segment.marker not in _DESCRIPTIONS:
            kept.append(content[segment.start : segment.end])
    return b"".join(kept)


def _check_cost(content: bytes) -> bytes:
    """Refuses a file that a decoder would take too much time or memory for, before any decoding; returns its EXIF block."""
    frame = _Frame()
    exif = b""
    scans = visits = 0
    for segment in _segments(content):
        if segment.marker in _ARITHMETIC:
            raise InvalidImageError(_NO_ARITHMETIC)
        if segment.marker in _FRAMES and not frame.components:
            frame = _frame(segment.marker, segment.data)
        if segment.marker == _EXIF and segment.data.startswith(b"Exif\0\0") and not exif:
            exif = segment.data
        if segment.marker != _START_OF_SCAN:
            continue
        named = segment.data[1 : 1 + 2 * segment.data[0] : 2] if segment.data else b""
        scans += 1
        visits += frame.blocks(named)
        if scans > MAX_JPEG_SCANS:
            raise InvalidImageError(_TOO_MANY_SCANS)
        is_kept = frame.is_progressive or len(named) < len(frame.components)
        if visits > _MAX_VISITS or (is_kept and frame.coefficient_bytes() > _MAX_COEFFICIENT_BYTES):
            raise InvalidImageError(_TOO_COSTLY)
    return exif


def _segments(content: bytes) -> Iterator[_Segment]:
    """Every segment up to the end of the picture, as a decoder finds them. The picture's start is none."""
    position, junk = 2, 0
    was_scan = False
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(content, position)
        if found is None or (marker := found[1][0]) == _END:
            if found is not None and content.find(_FILL, 0, found.start()) >= 0:
                raise DamagedError
            return
        if not was_scan:
            junk += found.start() - position
            if junk > _MAX_JUNK_BYTES:
                raise DamagedError
        was_scan = was_scan or marker == _START_OF_SCAN
        position, data = found.end(), b""
        if marker >= _FIRST_SEGMENT and marker != _START:
            length = int.from_bytes(content[position : position + 2], "big")
            data = content[position + 2 : position + length]
            position += length
        yield _Segment(marker=marker, data=data, start=found.start(), end=position)
    raise InvalidImageError(_TOO_MANY_SCANS)


def _frame(marker: int, data: bytes) -> _Frame:
    """Its number of blocks. A header that is cut short gives none: the decoder refuses it."""
    height, width = int.from_bytes(data[1:3], "big"), int.from_bytes(data[3:5], "big")
    check_size(width, height)
    components = [(data[at], data[at + 1] >> 4, data[at + 1] & 15) for at in range(6, len(data) - 2, 3)]
    across, down = max((h for _, h, _ in components), default=1) or 1, max((v for _, _, v in components), default=1) or 1
    blocks = tuple((ident, -(-width * h // (8 * across)) * -(-height * v // (8 * down))) for ident, h, v in components)
    return _Frame(components=blocks, is_progressive=marker not in _BASELINE_OR_EXTENDED)
