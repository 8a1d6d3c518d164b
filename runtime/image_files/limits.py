"""What an input image may be and cost, and the one error of those that may not."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IMAGE_BYTES = 12 * 1024 * 1024
"""Largest file, in bytes (http-contract.md)."""

MAX_IMAGE_PIXELS = 64_000_000
"""Largest picture, width times height (http-contract.md)."""

TOO_LARGE = f"The image is larger than {MAX_IMAGE_BYTES // 1024 // 1024} MiB."
TOO_MANY_PIXELS = f"The image has more than {MAX_IMAGE_PIXELS // 1_000_000} megapixels."
ANIMATED = "The image is animated; send a still picture."


class InvalidImageError(Exception):
    """The bytes are no acceptable image; the message is a sentence for the client."""


class DamagedError(Exception):
    """The file is corrupt or cut short. Told to the client as InvalidImageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a whole picture is, as it lies in its file.

    Attributes:
        width, height: pixels.
        exif: the EXIF block; empty when there is none.
    """

    width: int
    height: int
    exif: bytes = b""


def check_size(width: int, height: int) -> None:
    """Raises DamagedError for a picture without pixels, InvalidImageError for one with too many."""
    if width < 1 or height < 1:
        raise DamagedError
    if width * height > MAX_IMAGE_PIXELS:
        raise InvalidImageError(TOO_MANY_PIXELS)
