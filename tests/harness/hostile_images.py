"""The corpus: every hostile image, those that are something else in disguise included."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Iterator

from PIL import Image

from tests.harness.hostile import REFUSED, Hostile, photo
from tests.harness.hostile_jpeg import hostile_jpegs
from tests.harness.hostile_png import hostile_pngs
from tests.harness.hostile_webp import hostile_webps

_TYPES = ("image/png", "image/jpeg", "image/webp")
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff\xe0", "image/webp": b"RIFF\0\1\0\0WEBP"}


def hostile_images(*, costly: bool = True) -> Iterator[Hostile]:
    """All, made one after the other: together they are large. Without the costly ones some 300 remain."""
    yield from hostile_pngs(costly=costly)
    yield from hostile_jpegs(costly=costly)
    yield from hostile_webps(costly=costly)
    yield from _disguised()


def _disguised() -> Iterator[Hostile]:
    for name, content in _others().items():
        for media_type in _TYPES:
            yield Hostile(f"{name}-as-{media_type[6:]}", media_type, content, REFUSED)
            yield Hostile(f"{name}-behind-magic-of-{media_type[6:]}", media_type, _MAGIC[media_type] + content, REFUSED)


def _others() -> dict[str, bytes]:
    others = {}
    for file_format in ("BMP", "GIF", "TIFF", "ICO", "PPM", "TGA", "AVIF", "JPEG2000", "DDS"):
        file = io.BytesIO()
        photo().save(file, file_format)
        others[file_format.lower()] = file.getvalue()
    others["svg"] = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    others["html"] = b"<!doctype html><script>alert(1)</script>"
    others["pdf"] = b"%PDF-1.7\n1 0 obj<<>>endobj\n%%EOF"
    others["gzip"] = gzip.compress(bytes(1_000_000))
    others["elf"] = b"\x7fELF" + bytes(1000)
    others["eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"
    others["wmf"] = b"\xd7\xcd\xc6\x9a" + bytes(100)
    others["zeros"] = bytes(1_000_000)
    others["wave"] = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28)
    palette = io.BytesIO()
    Image.new("P", (16, 16)).save(palette, "GIF")
    others["gif-palette"] = palette.getvalue()
    return others
