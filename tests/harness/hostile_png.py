"""Hostile and odd PNG files, made by code: bombs, lies, cuts and pieces."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

from PIL import Image

from tests.harness.hostile import GOOD, REFUSED, Hostile, cuts, exif_bomb, photo

_TYPE = "image/png"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MIB = 1024 * 1024
# Colour type and depth of every kind of PNG, and its bits a pixel.
_KINDS = {
    (0, 1): 1, (0, 2): 2, (0, 4): 4, (0, 8): 8, (0, 16): 16, (2, 8): 24, (2, 16): 48,
    (3, 1): 1, (3, 2): 2, (3, 4): 4, (3, 8): 8, (4, 8): 16, (4, 16): 32, (6, 8): 32, (6, 16): 64,
}  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int = 8, colour: int = 2, *, rest: bytes = b"\0\0\0") -> bytes:
    """IHDR; `rest` is compression, filter and interlacing."""
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + rest)


def png(*chunks: bytes) -> bytes:
    """A file of these chunks and the end."""
    return _SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


@cache
def zeros(count: int) -> bytes:
    """So many zeros, deflated; made of repeated blocks, since a gigabyte would take long to deflate."""
    unit = 16 * _MIB
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflater.compress(bytes(unit)) + deflater.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(count % unit)) + last.flush()
    # Adler-32 of n zeros: the low half stays 1, the high half counts them.
    return b"\x78\xda" + block * (count // unit) + rest + struct.pack(">HH", count % 65521, 1)


def _row_bytes(width: int, bits: int) -> int:
    return 1 + (width * bits + 7) // 8


def _small(**options: object) -> bytes:
    file = io.BytesIO()
    photo().save(file, "PNG", **options)
    return file.getvalue()


def _inside(extra: bytes, content: bytes | None = None) -> bytes:
    """The chunks put behind the header of an ordinary file."""
    content = content or _small()
    return content[:33] + extra + content[33:]


def hostile_pngs(*, costly: bool = True) -> Iterator[Hostile]:
    """All of them, or those that are quick to make and to look at."""
    if costly:
        yield from _bombs()
        yield from _metadata()
    yield from _lies()
    yield from _odd()
    content = _small()
    yield from cuts("png", _TYPE, content)


def _bombs() -> Iterator[Hostile]:
    palette = chunk(b"PLTE", b"\1\2\3")
    for (colour, depth), bits in _KINDS.items():
        for interlaced in (0, 1):
            if interlaced:
                raw = sum(_row_bytes(-(-(8000 - x) // xs), bits) * -(-(8000 - y) // ys) for x, y, xs, ys in _PASSES)
            else:
                raw = _row_bytes(8000, bits) * 8000
            between = palette if colour == 3 else b""
            file = png(header(8000, 8000, depth, colour, rest=bytes((0, 0, interlaced))), between, chunk(b"IDAT", zeros(raw)))
            # Small files, 64 megapixels: as large as a picture may be.
            yield Hostile(f"png-bomb-{colour}-{depth}-{interlaced}", _TYPE, file, GOOD)
    for width, height in ((1, 64_000_000), (64_000_000, 1), (16, 4_000_000)):
        pixels = chunk(b"IDAT", zeros(_row_bytes(width, 24) * height))
        yield Hostile(f"png-{width}x{height}", _TYPE, png(header(width, height), pixels), GOOD)
    for width, height in ((8001, 8000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (65535, 65535), (2**32 - 1, 2**32 - 1)):
        yield Hostile(f"png-{width}x{height}", _TYPE, png(header(width, height), chunk(b"IDAT", zeros(_MIB))), REFUSED)
    # Pixels of four gigabytes behind a picture of four pixels: read no further than the picture.
    yield Hostile("png-surplus-pixels", _TYPE, png(header(2, 2), chunk(b"IDAT", zeros(4096 * _MIB))), GOOD)
    yield Hostile("png-one-byte-pieces", _TYPE, _in_pieces(1), None)


def _in_pieces(size: int) -> bytes:
    pixels = zlib.compress(bytes(_row_bytes(400, 24) * 400), 0)
    pieces = b"".join(chunk(b"IDAT", pixels[at : at + size]) for at in range(0, len(pixels), size))
    return png(header(400, 400), pieces)


_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _metadata() -> Iterator[Hostile]:
    text_bomb = b"k\0\0" + zeros(64 * _MIB)
    yield Hostile("png-ztxt-bomb", _TYPE, _inside(chunk(b"zTXt", text_bomb)), GOOD)
    yield Hostile("png-itxt-bomb", _TYPE, _inside(chunk(b"iTXt", b"k\0\1\0\0\0" + zeros(64 * _MIB))), GOOD)
    yield Hostile("png-iccp-bomb", _TYPE, _inside(chunk(b"iCCP", text_bomb)), GOOD)
    small_bomb = b"k\0\0" + zlib.compress(bytes(_MIB), 9)
    for kind in (b"zTXt", b"iCCP", b"iTXt"):
        data = small_bomb if kind != b"iTXt" else b"k\0\1\0\0\0" + small_bomb[3:]
        yield Hostile(f"png-10000-{kind.decode()}-bombs", _TYPE, _inside(chunk(kind, data) * 10_000), GOOD)
    yield Hostile("png-million-empty-chunks", _TYPE, _inside(chunk(b"teXt", b"") * 1_000_000), REFUSED)
    yield Hostile("png-many-chunks", _TYPE, _inside(chunk(b"tEXt", b"k\0v") * 19_000), GOOD)
    yield Hostile("png-large-text", _TYPE, _inside(chunk(b"tEXt", b"k\0" + b"v" * 11 * _MIB)), GOOD)
    yield Hostile("png-broken-ztxt", _TYPE, _inside(chunk(b"zTXt", b"k\0\0nothing")), GOOD)
    yield Hostile("png-broken-iccp", _TYPE, _inside(chunk(b"iCCP", b"no name")), GOOD)
    yield Hostile("png-exif-bomb", _TYPE, _inside(chunk(b"eXIf", exif_bomb(60_000, 8 * _MIB)[6:])), GOOD)
    yield Hostile("png-large-palette", _TYPE, _inside(chunk(b"PLTE", bytes(3 * _MIB))), REFUSED)
    for number, data in enumerate((b"", b"II", b"MM\0\x2a\xff\xff\xff\xff", b"\xff" * 1000)):
        yield Hostile(f"png-broken-exif-{number}", _TYPE, _inside(chunk(b"eXIf", data)), GOOD)


def _lies() -> Iterator[Hostile]:
    pixels = chunk(b"IDAT", zlib.compress(bytes(_row_bytes(4, 24) * 4)))
    yield Hostile("png-no-pixels", _TYPE, png(header(4, 4)), REFUSED)
    yield Hostile("png-no-header", _TYPE, png(pixels), REFUSED)
    yield Hostile("png-header-late", _TYPE, png(chunk(b"tEXt", b"k\0v"), header(4, 4), pixels), REFUSED)
    yield Hostile("png-two-headers", _TYPE, png(header(4, 4), header(8000, 8000), pixels), REFUSED)
    yield Hostile("png-no-end", _TYPE, _SIGNATURE + header(4, 4) + pixels, REFUSED)
    yield Hostile("png-no-palette", _TYPE, png(header(4, 4, 8, 3), chunk(b"IDAT", zlib.compress(bytes(20)))), REFUSED)
    yield Hostile("png-zero-wide", _TYPE, png(header(0, 4), pixels), REFUSED)
    yield Hostile("png-zero-high", _TYPE, png(header(4, 0), pixels), REFUSED)
    for depth, colour in ((3, 2), (8, 1), (8, 5), (8, 7), (16, 3), (1, 2), (0, 0), (255, 255)):
        yield Hostile(f"png-depth-{depth}-colour-{colour}", _TYPE, png(header(4, 4, depth, colour), pixels), REFUSED)
    for number, rest in enumerate((b"\1\0\0", b"\0\1\0", b"\0\0\2")):
        yield Hostile(f"png-unknown-method-{number}", _TYPE, png(header(4, 4, rest=rest), pixels), REFUSED)
    rows = bytes((5, *bytes(12))) * 4
    yield Hostile("png-unknown-filter", _TYPE, png(header(4, 4), chunk(b"IDAT", zlib.compress(rows))), REFUSED)
    yield Hostile("png-too-few-rows", _TYPE, png(header(4, 5), pixels), REFUSED)
    yield Hostile("png-not-deflated", _TYPE, png(header(4, 4), chunk(b"IDAT", b"no pixels at all")), REFUSED)
    yield Hostile("png-long-chunk", _TYPE, _SIGNATURE + header(4, 4) + struct.pack(">I", 2**32 - 1) + b"IDAT" + bytes(100), REFUSED)
    content = bytearray(_small())
    content[len(content) // 2] ^= 0xFF
    yield Hostile("png-wrong-checksum", _TYPE, bytes(content), REFUSED)
    yield Hostile("png-pixels-in-two-places", _TYPE, png(header(4, 4), pixels, chunk(b"tEXt", b"k\0v"), pixels), REFUSED)
    yield Hostile("png-broken-transparency", _TYPE, png(header(4, 4, 8, 0), chunk(b"tRNS", b"\1"), pixels), REFUSED)


def _odd() -> Iterator[Hostile]:
    yield Hostile("png-html", _TYPE, _inside(chunk(b"tEXt", b"k\0<script>alert(1)</script>")), GOOD)
    yield Hostile("png-html-behind", _TYPE, _small() + b"<html><script>alert(1)</script></html>", GOOD)
    yield Hostile("png-zip-behind", _TYPE, _small() + b"PK\3\4" + bytes(1000) + b"PK\5\6" + bytes(18), GOOD)
    yield Hostile("png-garbage-behind", _TYPE, _small() + bytes(11 * _MIB), GOOD)
    file = io.BytesIO()
    photo().save(file, "PNG", save_all=True, append_images=[photo().rotate(90)])
    yield Hostile("png-animated", _TYPE, file.getvalue(), REFUSED)
    yield Hostile("png-claims-frames", _TYPE, _inside(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), REFUSED)
    yield Hostile("png-palette-transparency", _TYPE, _palette(transparency=bytes(range(256))), GOOD)
    yield Hostile("png-palette-one-transparent", _TYPE, _palette(transparency=3), GOOD)
    for mode in ("1", "L", "LA", "I;16", "RGBA"):
        file = io.BytesIO()
        (Image.new(mode, (64, 48)) if mode == "I;16" else photo().convert(mode)).save(file, "PNG")
        yield Hostile(f"png-mode-{mode}", _TYPE, file.getvalue(), GOOD)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield Hostile(f"png-orientation-{orientation}", _TYPE, _small(exif=exif), GOOD)


def _palette(transparency: bytes | int) -> bytes:
    file = io.BytesIO()
    photo().convert("P").save(file, "PNG", transparency=transparency)
    return file.getvalue()
