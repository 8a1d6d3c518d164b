"""Hostile and odd WebP files, made by code: bombs, lies, cuts, and tables that take more memory than the picture."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL import Image

from tests.harness.hostile import GOOD, REFUSED, Hostile, cuts, exif_bomb, photo

_TYPE = "image/webp"
_MIB = 1024 * 1024


def _webp(picture: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (picture or photo()).save(file, "WEBP", **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes) -> bytes:
    """A file of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _extended(width: int, height: int, flags: int, *chunks: bytes) -> bytes:
    canvas = struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff(_chunk(b"VP8X", canvas), *chunks)


class _Bits:
    """Writes bits, the lowest first, as lossless WebP has them."""

    def __init__(self) -> None:
        self._value = self._count = 0
        self._bytes = bytearray()

    def put(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count
        while self._count >= 8:
            self._bytes.append(self._value & 255)
            self._value >>= 8
            self._count -= 8

    def done(self) -> bytes:
        return bytes(self._bytes) + bytes((self._value & 255,)) + bytes(8)


def many_tables(groups_a_side: int) -> bytes:
    """A lossless picture whose blocks of 4 x 4 each have tables of their own: five kilobytes for twenty bits of the file."""
    bits = _Bits()
    size = groups_a_side * 4
    bits.put(0x2F, 8)
    bits.put(size - 1, 14)
    bits.put(size - 1, 14)
    bits.put(0, 4)
    bits.put(0, 1)
    bits.put(0, 1)
    bits.put(1, 1)
    bits.put(0, 3)
    # The picture of the tables' numbers: green and red take eight bits each, blue and alpha none.
    bits.put(0, 1)
    _flat_code(bits, literals=256, symbols=280)
    _flat_code(bits, literals=256, symbols=256)
    for _ in range(3):
        _one_symbol(bits)
    reverse = [int(f"{number:08b}"[::-1], 2) for number in range(256)]
    for number in range(groups_a_side * groups_a_side):
        bits.put(reverse[number & 255], 8)
        bits.put(reverse[number >> 8], 8)
    for _ in range(groups_a_side * groups_a_side):
        for _ in range(5):
            _one_symbol(bits)
    return riff(_chunk(b"VP8L", bits.done()))


def _one_symbol(bits: _Bits) -> None:
    bits.put(0b0001, 4)


def _flat_code(bits: _Bits, *, literals: int, symbols: int) -> None:
    """A code in which the first `literals` symbols have eight bits each."""
    bits.put(0, 1)
    # Lengths are written with a code of their own; its lengths come in this order: 17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8.
    bits.put(12 - 4, 4)
    for name in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8):
        bits.put(1 if name in (0, 8) else 0, 3)
    bits.put(0, 1)
    for symbol in range(symbols):
        bits.put(1 if symbol < literals else 0, 1)


def hostile_webps(*, costly: bool = True) -> Iterator[Hostile]:
    """All of them, or those that are quick to make and to look at."""
    if costly:
        yield from _bombs()
    yield from _lies()
    yield from _odd()
    yield from cuts("webp", _TYPE, _webp())
    yield from cuts("webp-lossless", _TYPE, _webp(lossless=True))


def _bombs() -> Iterator[Hostile]:
    flat = Image.new("RGB", (8000, 8000), "teal")
    yield Hostile("webp-64-megapixels", _TYPE, _webp(flat, method=0), GOOD)
    yield Hostile("webp-64-megapixels-lossless", _TYPE, _webp(flat, lossless=True, method=0), GOOD)
    # No palette and no run: four bytes for every pixel.
    bands = [made("L").resize((8000, 8000)) for made in (Image.linear_gradient, Image.radial_gradient)]
    gradient = Image.merge("RGB", [*bands, flat.getchannel(0)])
    yield Hostile("webp-64-megapixels-gradient", _TYPE, _webp(gradient, lossless=True, method=0, quality=0), GOOD)
    alpha = gradient.copy()
    alpha.putalpha(gradient.getchannel(1))
    yield Hostile("webp-64-megapixels-alpha", _TYPE, _webp(alpha, method=0, quality=10), GOOD)
    yield Hostile("webp-16383-wide", _TYPE, _webp(Image.new("RGB", (16383, 3900)), lossless=True, method=0), GOOD)
    yield Hostile("webp-one-column", _TYPE, _webp(Image.new("RGB", (1, 16383)), lossless=True), GOOD)
    header = bytes((0x2F,)) + struct.pack("<I", 16382 | 16382 << 14)
    yield Hostile("webp-268-megapixels", _TYPE, riff(_chunk(b"VP8L", header + bytes(1000))), REFUSED)
    yield Hostile("webp-many-tables", _TYPE, many_tables(120), None)
    yield Hostile("webp-most-tables", _TYPE, many_tables(256), None)
    lossy = bytearray(_webp())
    frame = lossy.index(b"\x9d\x01\x2a") + 3
    lossy[frame : frame + 4] = struct.pack("<HH", 16383, 16383)
    yield Hostile("webp-lossy-268-megapixels", _TYPE, bytes(lossy), REFUSED)


def _lies() -> Iterator[Hostile]:
    content = _webp()
    yield Hostile("webp-size-too-large", _TYPE, content[:4] + struct.pack("<I", 2**32 - 1) + content[8:], REFUSED)
    yield Hostile("webp-size-zero", _TYPE, content[:4] + bytes(4) + content[8:], REFUSED)
    yield Hostile("webp-chunk-too-large", _TYPE, content[:16] + struct.pack("<I", 2**31) + content[20:], REFUSED)
    yield Hostile("webp-no-chunk", _TYPE, riff(), REFUSED)
    yield Hostile("webp-unknown-chunks", _TYPE, riff(_chunk(b"XXXX", b"") * 4_000, content[12:]), None)
    yield Hostile("webp-million-chunks", _TYPE, riff(_chunk(b"XXXX", b"") * 1_000_000), REFUSED)
    yield Hostile("webp-canvas-differs", _TYPE, _extended(8000, 8000, 0, content[12:]), REFUSED)
    yield Hostile("webp-canvas-too-large", _TYPE, _extended(2**24, 2**24, 0, content[12:]), REFUSED)
    yield Hostile("webp-no-pixels", _TYPE, riff(_chunk(b"VP8 ", b"")), REFUSED)
    yield Hostile("webp-noise", _TYPE, riff(_chunk(b"VP8L", bytes((0x2F,)) + bytes(range(256)) * 100)), REFUSED)
    yield Hostile("webp-broken-alpha", _TYPE, _extended(64, 48, 0x10, _chunk(b"ALPH", b"\x01" + bytes(50)), content[12:]), None)


def _odd() -> Iterator[Hostile]:
    yield Hostile("webp-animated", _TYPE, _webp(save_all=True, append_images=[photo().rotate(90)]), REFUSED)
    still = _webp()[12:]
    yield Hostile("webp-claims-animation", _TYPE, _extended(64, 48, 0x02, still), REFUSED)
    yield Hostile("webp-large-profile", _TYPE, _extended(64, 48, 0x20, _chunk(b"ICCP", bytes(11 * _MIB)), still), GOOD)
    yield Hostile("webp-large-exif", _TYPE, _extended(64, 48, 0x08, still, _chunk(b"EXIF", b"\xff" * 11 * _MIB)), GOOD)
    yield Hostile("webp-exif-bomb", _TYPE, _extended(64, 48, 0x08, still, _chunk(b"EXIF", exif_bomb(60_000, 8 * _MIB))), GOOD)
    yield Hostile("webp-html-behind", _TYPE, _webp() + b"<html><script>alert(1)</script></html>", GOOD)
    yield Hostile("webp-garbage-behind", _TYPE, _webp() + bytes(11 * _MIB), GOOD)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield Hostile(f"webp-orientation-{orientation}", _TYPE, _webp(exif=exif), GOOD)
