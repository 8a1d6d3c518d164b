"""Decides whether bytes are an input image: really PNG, JPEG or WebP, small enough, whole, and decodable."""

from __future__ import annotations

import binascii
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from runtime.image_files.exif import orientation
from runtime.image_files.jpeg import check_jpeg, plain_jpeg
from runtime.image_files.limits import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, TOO_LARGE, Facts, InvalidImageError
from runtime.image_files.png import check_png, plain_png
from runtime.image_files.webp import check_webp

__all__ = [
    "MAX_IMAGE_BYTES",
    "MAX_IMAGE_PIXELS",
    "CheckedImage",
    "InvalidImageError",
    "check_data_uri",
    "check_image",
    "open_rgb",
    "parse_data_uri",
]

# Pillow's decoder name by media type; no other decoder is ever tried.
_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
# Leaves out of a file what only describes the picture: Pillow reads all of that as it opens a file, however much it is.
_PLAIN: Mapping[str, Callable[[bytes], bytes]] = {"image/png": plain_png, "image/jpeg": plain_jpeg}
_CHECKS: Mapping[str, Callable[[bytes], Facts]] = {"image/png": check_png, "image/jpeg": check_jpeg, "image/webp": check_webp}
_PREFIXES = {f"data:{media_type};base64": media_type for media_type in _FORMATS}
# Longer than any accepted prefix, so a comma further on belongs to no header.
_LONGEST_PREFIX = 64
_MAX_BASE64_LENGTH = (MAX_IMAGE_BYTES + 2) // 3 * 4
_NO_BASE64 = "The data URI does not hold valid base64 (no spaces or line breaks, padded to a multiple of four)."
_CORRUPT = "The image is corrupt or cut short: it could not be decoded as {}."

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
    """Reads the whole image. Blocks for up to half a second and holds up to 250 MiB on the largest: call it in a thread, few at a time.

    Raises:
        InvalidImageError: not PNG, JPEG or WebP, over 12 MiB or 64 megapixels, animated, cut short, corrupt, or made to cost too much.
    """
    media_type = _media_type(content)
    with _told(media_type):
        facts = _CHECKS[media_type](content)
    width, height = facts.width, facts.height
    if _turn(facts.exif) in _SIDEWAYS:
        width, height = height, width
    return CheckedImage(content=content, media_type=media_type, width=width, height=height)


def check_data_uri(value: object, check: Callable[[bytes], CheckedImage] | None = None) -> CheckedImage:
    """Parses a data URI and checks its image, which must be of the declared type. Blocks: call it in a thread.

    Args:
        value: anything; only text can be a data URI.
        check: looks at the bytes; None: `check_image`.

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
    return check_image(content) if check is None else check(content)


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
        raise InvalidImageError(TOO_LARGE)
    # The decoder's own strict mode lets surplus padding pass.
    if len(payload) % 4 or payload.endswith("==="):
        raise InvalidImageError(_NO_BASE64)
    try:
        content = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        raise InvalidImageError(_NO_BASE64) from None
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidImageError(TOO_LARGE)
    return media_type, content


def open_rgb(content: bytes) -> Image.Image:
    """The picture as 8-bit RGB: turned upright by its EXIF orientation, transparency flattened on white, 16-bit grey scaled down. Blocks.

    Raises:
        InvalidImageError: as `check_image`.
    """
    media_type = _media_type(content)
    with _told(media_type):
        turn = _turn(_CHECKS[media_type](content).exif)
        plain = _PLAIN[media_type](content) if media_type in _PLAIN else content
        with Image.open(io.BytesIO(plain), formats=[_FORMATS[media_type]]) as image:
            image.load()
            picture = _flattened(image)
    return picture if turn is None else picture.transpose(turn)


def _media_type(content: bytes) -> str:
    """Media type by the first bytes, after the checks that need no decoder."""
    if not content:
        msg = "The image is empty."
        raise InvalidImageError(msg)
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidImageError(TOO_LARGE)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    msg = "The image is not PNG, JPEG or WebP."
    raise InvalidImageError(msg)


@contextmanager
def _told(media_type: str) -> Iterator[None]:
    """Every failure in the block is the image's."""
    try:
        yield
    except (InvalidImageError, MemoryError):
        raise
    except Exception:
        # Decoders raise all sorts (OSError, SyntaxError, ValueError, struct.error, …) on hostile bytes; each means the same.
        raise InvalidImageError(_CORRUPT.format(media_type)) from None


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


def _turn(exif: bytes) -> Image.Transpose | None:
    """What turns the picture upright; None when it is, or when it does not say."""
    how = orientation(exif)
    return None if how is None else _UPRIGHT.get(how)
