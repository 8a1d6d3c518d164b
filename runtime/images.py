"""Decides whether bytes are an input image: really PNG, JPEG or WebP, small enough, whole, and decodable."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from PIL import Image

MAX_IMAGE_BYTES = 12 * 1024 * 1024
"""Largest file, in bytes (http-contract.md)."""

MAX_IMAGE_PIXELS = 64_000_000
"""Largest picture, width times height (http-contract.md)."""

# Pillow's decoder name by media type; no other decoder is ever tried.
_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
_PREFIXES = {f"data:{media_type};base64": media_type for media_type in _FORMATS}
# Longer than any accepted prefix, so a comma further on belongs to no header.
_LONGEST_PREFIX = 64
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_MAX_BASE64_LENGTH = (MAX_IMAGE_BYTES + 2) // 3 * 4

MAX_JPEG_SCANS = 100
"""Passes over the picture that a JPEG may ask for.

libjpeg's own script for progressive colour has 10, tools that search for the smallest file write some tens; the format itself allows any
number of repeats, each a pass over all pixels: 100 take some 6 s at 64 megapixels, and 12 MiB have room for over an hour.
"""

_JPEG_START_OF_SCAN = 0xDA
_JPEG_START = 0xD8
_JPEG_END = 0xD9
# Where a decoder may find the next segment: not at stuffing (FF 00), fill bytes (FF FF) and restarts (FF D0 to FF D7).
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
# Markers below this one carry no length.
_JPEG_FIRST_SEGMENT = 0xC0
# Tables, comments and scans before the end of the picture; a profile or metadata of 12 MiB is some 200 of them.
_MAX_JPEG_SEGMENTS = 5_000

# The whole last chunk but its length (always 0): type and checksum.
_PNG_END = b"IEND\xaeB`\x82"

_TOO_LARGE = f"The image is larger than {MAX_IMAGE_BYTES // 1024 // 1024} MiB."
_TOO_MANY_PIXELS = f"The image has more than {MAX_IMAGE_PIXELS // 1_000_000} megapixels."
_TOO_MANY_SCANS = f"The JPEG has more than {MAX_JPEG_SCANS} scans; save it again as an ordinary JPEG."
_CORRUPT = "The image is corrupt or cut short: it could not be decoded as {}."

# A WebP of 64 megapixels takes 1 GB while it is decoded, and its file may have 3 KB: of pictures over this size a process decodes one at
# a time.
_LARGE_PIXELS = 16_000_000
_ONE_LARGE = threading.Lock()

_EXIF_ORIENTATION = 0x0112
# How to turn a picture upright, by its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those that swap width and height.
_SIDEWAYS = frozenset(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))


class InvalidImageError(Exception):
    """The bytes are no acceptable image; the message is a sentence for the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """An image that was decoded once. Only `check_image` makes it.

    Attributes:
        content: the file, unchanged.
        media_type: `image/png`, `image/jpeg` or `image/webp`, by its content.
        width, height: pixels of the upright picture.
    """

    content: bytes
    media_type: str
    width: int
    height: int


def check_image(content: bytes) -> CheckedImage:
    """Decodes the whole image. Blocks for up to a second, and holds up to 16 bytes for each pixel: call it in a thread, few at a time.

    Raises:
        InvalidImageError: not PNG, JPEG or WebP, over 12 MiB or 64 megapixels, animated, cut short or corrupt.
    """
    media_type = _media_type(content)
    with _decoded(content, media_type) as image:
        width, height = image.size
        if _turn(image) in _SIDEWAYS:
            width, height = height, width
    return CheckedImage(content=content, media_type=media_type, width=width, height=height)


def check_data_uri(value: object) -> CheckedImage:
    """Parses a data URI and checks its image, which must be of the declared type. Blocks: call it in a thread.

    Raises:
        InvalidImageError: no such data URI, or no acceptable image in it.
    """
    if not isinstance(value, str):
        msg = "The image must be a data URI (data:image/png;base64,…)."
        raise InvalidImageError(msg)
    declared, content = parse_data_uri(value)
    real = _media_type(content)
    if real != declared:
        msg = f"The data URI declares {declared}, but the image is {real}."
        raise InvalidImageError(msg)
    return check_image(content)


def parse_data_uri(value: str) -> tuple[str, bytes]:
    """Media type and bytes of `data:image/png|jpeg|webp;base64,…`; strict base64, its size limited before it is decoded.

    Raises:
        InvalidImageError: it is not such a data URI, or larger than 12 MiB.
    """
    header, comma, _ = value[:_LONGEST_PREFIX].partition(",")
    media_type = _PREFIXES.get(header.lower())
    if not comma or media_type is None:
        msg = f"The image must be a data URI that starts with one of: {', '.join(f'{prefix},' for prefix in _PREFIXES)}"
        raise InvalidImageError(msg)
    payload = value[len(header) + 1 :]
    if len(payload) > _MAX_BASE64_LENGTH:
        raise InvalidImageError(_TOO_LARGE)
    # The decoder's own strict mode lets surplus padding pass.
    if len(payload) % 4 or not _BASE64.fullmatch(payload):
        msg = "The data URI does not hold valid base64 (no spaces or line breaks, padded to a multiple of four)."
        raise InvalidImageError(msg)
    return media_type, base64.b64decode(payload, validate=True)


def open_rgb(content: bytes) -> Image.Image:
    """The picture as 8-bit RGB: turned upright by its EXIF orientation, transparency flattened on white, 16-bit grey scaled down. Blocks.

    Raises:
        InvalidImageError: as `check_image`.
    """
    with _decoded(content, _media_type(content)) as image:
        turn = _turn(image)
        picture = _flattened(image)
    return picture if turn is None else picture.transpose(turn)


def _media_type(content: bytes) -> str:
    """Media type by the first bytes, after the checks that need no decoder."""
    if not content:
        msg = "The image is empty."
        raise InvalidImageError(msg)
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidImageError(_TOO_LARGE)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    msg = "The image is not PNG, JPEG or WebP."
    raise InvalidImageError(msg)


@contextmanager
def _decoded(content: bytes, media_type: str) -> Iterator[Image.Image]:
    """The picture with all its pixels decoded, as it lies in the file; every failure in the block is the image's."""
    if media_type == "image/png" and _PNG_END not in content:
        raise InvalidImageError(_CORRUPT.format(media_type))
    if media_type == "image/jpeg" and _has_too_many_scans(content):
        raise InvalidImageError(_TOO_MANY_SCANS)
    try:
        with _open(content, media_type) as image:
            # PNG only: walks all chunks and their checksums to the end marker, which decoding alone does not need.
            image.verify()
            is_large = image.width * image.height > _LARGE_PIXELS
        with _ONE_LARGE if is_large else nullcontext(), _open(content, media_type) as image:
            image.load()
            yield image
    except (InvalidImageError, MemoryError):
        raise
    except Exception:
        # Decoders raise all sorts (OSError, SyntaxError, ValueError, struct.error, …) on hostile bytes; each means the same.
        raise InvalidImageError(_CORRUPT.format(media_type)) from None


def _has_too_many_scans(content: bytes) -> bool:
    """Whether a decoder would pass over the picture too often, up to the end that it stops at."""
    if content.count(b"\xff\xda") <= MAX_JPEG_SCANS:
        return False
    # Rare: a phone's photo with a film behind its end, whose bytes say anything, or an attack. Only the segments tell which.
    scans = position = 0
    for _ in range(_MAX_JPEG_SEGMENTS):
        found = _JPEG_MARKER.search(content, position)
        if found is None or (marker := found[1][0]) == _JPEG_END:
            return False
        scans += marker == _JPEG_START_OF_SCAN
        if scans > MAX_JPEG_SCANS:
            return True
        position = found.end()
        if marker >= _JPEG_FIRST_SEGMENT and marker != _JPEG_START:
            position += int.from_bytes(content[position : position + 2], "big")
    return True


def _open(content: bytes, media_type: str) -> Image.Image:
    """Reads the header and refuses by it, before any pixel is decoded."""
    try:
        image = Image.open(io.BytesIO(content), formats=[_FORMATS[media_type]])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidImageError(_TOO_MANY_PIXELS) from None
    if image.width * image.height > MAX_IMAGE_PIXELS:
        image.close()
        raise InvalidImageError(_TOO_MANY_PIXELS)
    # A JPEG with more than one picture is a phone photo with a depth or HDR map, not an animation: its first picture counts.
    if media_type != "image/jpeg" and getattr(image, "n_frames", 1) > 1:
        image.close()
        msg = "The image is animated; send a still picture."
        raise InvalidImageError(msg)
    return image


def _flattened(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: a plain conversion would clip instead of scale.
        return image.convert("I").point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    picture = Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=layer.getchannel("A"))
    return picture


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns the picture upright; None when it is, or when it does not say."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:
        # A damaged EXIF block says nothing about the pixels; the picture is taken as it lies.
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
