"""PNG: walks every chunk, inflates every pixel row in constant memory, and leaves out what is not the picture."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from runtime.image_files.limits import ANIMATED, DamagedError, Facts, InvalidImageError, check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_PNG_CHUNKS = 20_000
"""Pieces of a file. Encoders write pixels in pieces of 8 KiB or more; 12 MiB of them are some 1,500."""

# Bits of a pixel by colour type and depth; no other pair is allowed.
_PIXEL_BITS = {
    **{(0, depth): depth for depth in (1, 2, 4, 8, 16)},
    **{(2, depth): 3 * depth for depth in (8, 16)},
    **{(3, depth): depth for depth in (1, 2, 4, 8)},
    **{(4, depth): 2 * depth for depth in (8, 16)},
    **{(6, depth): 4 * depth for depth in (8, 16)},
}
_PALETTE = 3
_MAX_PALETTE_BYTES = 768
# Start and step of the seven passes of an interlaced picture: x, y.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_FILTERS = bytes(range(5))
_BLOCK_BYTES = 1024 * 1024
# Besides the pixels, what the picture is made of; everything else is colour profiles, texts and times.
_KEPT = (b"PLTE", b"tRNS", b"eXIf")


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The chunks that matter; `header` is IHDR's content, `pixels` those of IDAT in order, `others` those of `_KEPT`."""

    header: bytes
    pixels: tuple[memoryview, ...]
    others: dict[bytes, bytes]


def check_png(content: bytes) -> Facts:
    """Reads the whole file.

    Raises:
        DamagedError, and what Pillow raises for a palette that is none: it is corrupt or cut short.
        InvalidImageError: it is too large, animated, or cut into too many pieces.
    """
    file = _read(content)
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", file.header)
    check_size(width, height)
    bits = _PIXEL_BITS.get((colour, depth))
    if bits is None or compression or filtering or interlace > 1 or (colour == _PALETTE and b"PLTE" not in file.others):
        raise DamagedError
    # The decoder looks at the palette and the transparent colours when it opens a file; it need not see the pixels for that.
    if len(file.others.get(b"PLTE", b"")) > _MAX_PALETTE_BYTES:
        raise DamagedError
    with Image.open(io.BytesIO(_written(file, b"")), formats=["PNG"]):
        pass
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    _check_rows(_inflated(file.pixels), [rows for one in passes if (rows := _rows(width, height, bits, one))])
    return Facts(width=width, height=height, exif=file.others.get(b"eXIf", b""))


def plain_png(content: bytes) -> bytes:
    """The same picture without the chunks that only describe it: a decoder need not inflate those. Raises as `check_png`."""
    file = _read(content)
    return _written(file, b"".join(file.pixels))


def _written(file: _File, pixels: bytes) -> bytes:
    chunks = [(b"IHDR", file.header), *file.others.items(), (b"IDAT", pixels), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _read(content: bytes) -> _File:
    header = b""
    pixels: list[memoryview] = []
    others: dict[bytes, bytes] = {}
    before = b""
    for kind, data in _chunks(content):
        if (kind == b"IHDR") is bool(header):
            # The header comes first, and once.
            raise DamagedError
        if kind == b"IHDR":
            header = bytes(data)
        elif kind == b"IDAT":
            if pixels and before != b"IDAT":
                raise DamagedError
            pixels.append(data)
        elif kind == b"acTL" and len(data) >= 4 and int.from_bytes(data[:4], "big") > 1:
            raise InvalidImageError(ANIMATED)
        elif kind in _KEPT and not (pixels and kind != b"eXIf"):
            others.setdefault(kind, bytes(data))
        before = kind
    if len(header) != 13 or not pixels:
        raise DamagedError
    return _File(header=header, pixels=tuple(pixels), others=others)


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and data of every chunk up to the end marker, checksums verified."""
    view = memoryview(content)
    position = len(SIGNATURE)
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = int.from_bytes(view[position : position + 4], "big"), bytes(view[position + 4 : position + 8])
        data = view[position + 8 : position + 8 + length]
        checksum = view[position + 8 + length : position + 12 + length]
        if len(checksum) != 4 or zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise DamagedError
        if kind == b"IEND":
            return
        yield kind, data
        position += 12 + length
    msg = f"The PNG has more than {MAX_PNG_CHUNKS:,} chunks; save it again as an ordinary PNG."
    raise InvalidImageError(msg)


def _rows(width: int, height: int, bits: int, interlacing: tuple[int, int, int, int]) -> tuple[int, int] | None:
    """Bytes of a row, its filter byte included, and number of rows of one pass; None for a pass without pixels."""
    x, y, x_step, y_step = interlacing
    columns, rows = -(-(width - x) // x_step), -(-(height - y) // y_step)
    return (1 + (columns * bits + 7) // 8, rows) if columns > 0 and rows > 0 else None


def _inflated(pixels: tuple[memoryview, ...]) -> Iterator[bytes]:
    inflater = zlib.decompressobj()
    try:
        for piece in pixels:
            data: bytes | memoryview = piece
            while len(data) and not inflater.eof:
                yield inflater.decompress(data, _BLOCK_BYTES)
                data = inflater.unconsumed_tail
        # All input is in; what it says may be more than went into the last block.
        while block := inflater.decompress(b"", _BLOCK_BYTES):
            yield block
    except zlib.error:
        raise DamagedError from None


def _check_rows(blocks: Iterator[bytes], passes: list[tuple[int, int]]) -> None:
    """Every row is there and begins with a filter that exists. What comes after the last is not looked at."""
    stride, rows = passes.pop(0)
    left, done = stride * rows, 0
    for block in blocks:
        start = 0
        while start < len(block):
            end = min(len(block), start + left)
            if block[start + -done % stride : end : stride].translate(None, _FILTERS):
                raise DamagedError
            done, left, start = done + end - start, left - (end - start), end
            if left == 0:
                if not passes:
                    return
                stride, rows = passes.pop(0)
                left, done = stride * rows, 0
    raise DamagedError
