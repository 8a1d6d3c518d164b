"""Hostile and odd JPEG files, made by code: endless scans, endless junk, lies in the headers."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from functools import cache

from PIL import Image

from tests.harness.hostile import GOOD, REFUSED, Hostile, cuts, exif_bomb, photo

_TYPE = "image/jpeg"
_MIB = 1024 * 1024
_SCAN = b"\xff\xda"


def _jpeg(picture: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (picture or photo()).save(file, "JPEG", **options)
    return file.getvalue()


@cache
def _large(mode: str, *, progressive: bool, subsampling: int = 0) -> bytes:
    picture = Image.new(mode, (8000, 8000), (1, 2, 3, 4) if mode == "CMYK" else "gray")
    return _jpeg(picture, progressive=progressive, subsampling=subsampling)


def _repeated(content: bytes, scans: int) -> bytes:
    """The last scan, with its table, so often."""
    last = content.rindex(_SCAN)
    table = content.rfind(b"\xff\xc4", 0, last)
    scan = content[table if table > content.find(_SCAN) else last : -2]
    return content[:-2] + scan * scans + content[-2:]


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def _inside(extra: bytes, content: bytes | None = None) -> bytes:
    """Put behind the start of the file."""
    content = content or _jpeg()
    return content[:2] + extra + content[2:]


def _with_frame(content: bytes, **changes: int) -> bytes:
    """The frame header changed: `marker`, `depth`, `height`, `width`, `components`."""
    changed = bytearray(content)
    at = content.index(b"\xff\xc0")
    if "marker" in changes:
        changed[at + 1] = changes["marker"]
    if "depth" in changes:
        changed[at + 4] = changes["depth"]
    if "height" in changes:
        changed[at + 5 : at + 7] = struct.pack(">H", changes["height"])
    if "width" in changes:
        changed[at + 7 : at + 9] = struct.pack(">H", changes["width"])
    if "components" in changes:
        changed[at + 9] = changes["components"]
    return bytes(changed)


def hostile_jpegs(*, costly: bool = True) -> Iterator[Hostile]:
    """All of them, or those that are quick to make and to look at."""
    if costly:
        yield from _bombs()
        yield from _junk()
    yield from _lies()
    yield from _odd()
    yield from cuts("jpeg", _TYPE, _jpeg())
    yield from cuts("jpeg-progressive", _TYPE, _jpeg(progressive=True))


def _bombs() -> Iterator[Hostile]:
    for mode in ("L", "RGB", "CMYK"):
        yield Hostile(f"jpeg-64-megapixels-{mode}", _TYPE, _large(mode, progressive=False), GOOD)
    yield Hostile("jpeg-64-megapixels-progressive-L", _TYPE, _large("L", progressive=True), GOOD)
    yield Hostile("jpeg-64-megapixels-progressive-420", _TYPE, _large("RGB", progressive=True, subsampling=2), GOOD)
    # Coefficients of 366 and 488 MiB.
    yield Hostile("jpeg-64-megapixels-progressive-444", _TYPE, _large("RGB", progressive=True), REFUSED)
    yield Hostile("jpeg-64-megapixels-progressive-CMYK", _TYPE, _large("CMYK", progressive=True), REFUSED)
    grey = _large("L", progressive=True)
    for scans in (3, 10, 50, 1000):
        yield Hostile(f"jpeg-64-megapixels-and-{scans}-scans", _TYPE, _repeated(grey, scans), GOOD if scans == 3 else REFUSED)
    small = _jpeg(progressive=True)
    yield Hostile("jpeg-90-scans", _TYPE, _repeated(small, 80), GOOD)
    yield Hostile("jpeg-100000-scans", _TYPE, _repeated(small, 50_000), REFUSED)
    yield Hostile("jpeg-baseline-scan-repeated", _TYPE, _repeated(_large("L", progressive=False), 5), None)
    for width, height in ((65535, 65535), (65535, 1000), (8001, 8000)):
        yield Hostile(f"jpeg-claims-{width}x{height}", _TYPE, _with_frame(_jpeg(), width=width, height=height), REFUSED)
    yield Hostile("jpeg-claims-8000x8000", _TYPE, _with_frame(_jpeg(), width=8000, height=8000), None)


def _junk() -> Iterator[Hostile]:
    for name, unit in (("fill", b"\xff"), ("stuffing", b"\xff\0"), ("restart", b"\xff\xd0"), ("zero", b"\0"), ("start", b"\xff\xd8")):
        junk = unit * (11 * _MIB // len(unit))
        yield Hostile(f"jpeg-{name}-bytes-before", _TYPE, _inside(junk), REFUSED)
        yield Hostile(f"jpeg-{name}-bytes-within", _TYPE, _jpeg()[:-50] + junk + _jpeg()[-50:], None)
        yield Hostile(f"jpeg-{name}-bytes-behind", _TYPE, _jpeg() + junk, GOOD)
    yield Hostile("jpeg-million-comments", _TYPE, _inside(_segment(0xFE, b"") * 1_000_000), REFUSED)
    yield Hostile("jpeg-4000-comments", _TYPE, _inside(_segment(0xFE, b"c") * 4_000), GOOD)
    yield Hostile("jpeg-tables", _TYPE, _inside(_segment(0xC4, b"\0" + bytes(16)) * 4_000), None)
    yield Hostile("jpeg-quantization-tables", _TYPE, _inside(_segment(0xDB, b"\0" + b"\1" * 64) * 4_000), GOOD)
    profile = b"".join(_segment(0xE2, b"ICC_PROFILE\0" + bytes((number % 255 + 1, 255)) + bytes(60_000)) for number in range(190))
    yield Hostile("jpeg-large-profile", _TYPE, _inside(profile), GOOD)
    yield Hostile("jpeg-large-exif", _TYPE, _inside(_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 180), GOOD)
    bomb = exif_bomb(5_000, 65_000)
    without_density = _jpeg().replace(_segment(0xE0, _jpeg()[6:20]), b"", 1)
    yield Hostile("jpeg-exif-bomb", _TYPE, _inside(_segment(0xE1, bomb), without_density), GOOD)
    pieces = _segment(0xE1, bomb) + _segment(0xE1, bomb[:6] + bytes(65_000)) * 150
    yield Hostile("jpeg-exif-bomb-in-pieces", _TYPE, _inside(pieces, without_density), GOOD)
    yield Hostile("jpeg-photoshop-blocks", _TYPE, _inside(_segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 16_000) * 150), GOOD)


def _lies() -> Iterator[Hostile]:
    for marker in (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
        yield Hostile(f"jpeg-arithmetic-{marker:x}", _TYPE, _with_frame(_jpeg(), marker=marker), REFUSED)
    for marker in (0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7):
        yield Hostile(f"jpeg-frame-{marker:x}", _TYPE, _with_frame(_jpeg(), marker=marker), GOOD if marker == 0xC1 else None)
    yield Hostile("jpeg-zero-wide", _TYPE, _with_frame(_jpeg(), width=0), REFUSED)
    yield Hostile("jpeg-zero-high", _TYPE, _with_frame(_jpeg(), height=0), REFUSED)
    for components in (0, 2, 5, 255):
        yield Hostile(f"jpeg-{components}-components", _TYPE, _with_frame(_jpeg(), components=components), REFUSED)
    for depth in (0, 1, 12, 16):
        yield Hostile(f"jpeg-depth-{depth}", _TYPE, _with_frame(_jpeg(), depth=depth), REFUSED)
    yield Hostile("jpeg-only-start", _TYPE, b"\xff\xd8\xff\xd9", REFUSED)
    yield Hostile("jpeg-only-ends", _TYPE, b"\xff\xd8" + b"\xff\xd9" * 1000, REFUSED)
    content = _jpeg()
    yield Hostile("jpeg-no-tables", _TYPE, content[:2] + content[content.index(b"\xff\xc0") :], REFUSED)
    yield Hostile("jpeg-restart-interval", _TYPE, _inside(_segment(0xDD, b"\0\1")), None)
    for number, data in enumerate((b"", b"Exif", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 60_000)):
        yield Hostile(f"jpeg-broken-exif-{number}", _TYPE, _inside(_segment(0xE1, data)), GOOD)


def _odd() -> Iterator[Hostile]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>")
    yield Hostile("jpeg-zip", _TYPE, _jpeg() + archive.getvalue(), GOOD)
    yield Hostile("jpeg-html-inside", _TYPE, _jpeg(comment=b"<html><script>alert(1)</script></html>"), GOOD)
    yield Hostile("jpeg-cmyk", _TYPE, _jpeg(photo().convert("CMYK")), GOOD)
    cmyk = bytearray(_jpeg(photo().convert("CMYK")))
    adobe = cmyk.index(b"Adobe")
    cmyk[adobe + 11] = 2
    yield Hostile("jpeg-ycck", _TYPE, bytes(cmyk), GOOD)
    several = io.BytesIO()
    photo().save(several, "MPO", save_all=True, append_images=[photo().resize((24, 16))])
    yield Hostile("jpeg-mpo", _TYPE, several.getvalue(), GOOD)
    broken = several.getvalue().replace(b"MPF\0", b"MPF\0\xff\xff\xff\xff", 1)
    yield Hostile("jpeg-broken-mpo", _TYPE, broken, None)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield Hostile(f"jpeg-orientation-{orientation}", _TYPE, _jpeg(exif=exif), GOOD)
