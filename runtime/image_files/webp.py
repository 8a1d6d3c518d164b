"""WebP: walks the chunks, then decodes with libwebp itself: Pillow's way, through animations, takes five times the memory."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from functools import cache

from PIL import Image

from runtime.image_files.limits import ANIMATED, DamagedError, Facts, InvalidImageError, check_size

# Version of the interface that the structures below are written for (WEBP_DECODER_ABI_VERSION); the first byte must be the library's.
_ABI_VERSION = 0x0209
_OK = 0
_OUT_OF_MEMORY = 1
_HEADER_BYTES = 12
_CHUNK_HEADER_BYTES = 8
_MAX_CHUNKS = 5_000
_ANIMATION_FLAG = 0x02
# One pixel in so many, each way, is made; every one is read.
_SHRINK = 32
# Without libwebp at hand: Pillow holds a picture four times, with four bytes a pixel.
_MAX_PIXELS_OF_PILLOW = 18_000_000


_TOO_COSTLY = "The WebP is corrupt or takes too much memory to decode; save it again as PNG or JPEG."


class _Features(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("has_alpha", ctypes.c_int),
        ("has_animation", ctypes.c_int),
        ("format", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Planes(ctypes.Structure):
    """The larger member of the union of outputs, for its size."""

    _fields_ = (("planes", ctypes.c_void_p * 4), ("strides", ctypes.c_int * 4), ("sizes", ctypes.c_size_t * 4))


class _Output(ctypes.Structure):
    _fields_ = (
        ("colorspace", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("is_external_memory", ctypes.c_int),
        ("planes", _Planes),
        ("pad", ctypes.c_uint32 * 4),
        ("private_memory", ctypes.c_void_p),
    )


class _Options(ctypes.Structure):
    _fields_ = (
        ("bypass_filtering", ctypes.c_int),
        ("no_fancy_upsampling", ctypes.c_int),
        ("use_cropping", ctypes.c_int),
        ("crop", ctypes.c_int * 4),
        ("use_scaling", ctypes.c_int),
        ("scaled_width", ctypes.c_int),
        ("scaled_height", ctypes.c_int),
        ("use_threads", ctypes.c_int),
        ("dithering_strength", ctypes.c_int),
        ("flip", ctypes.c_int),
        ("alpha_dithering_strength", ctypes.c_int),
        ("pad", ctypes.c_uint32 * 5),
    )


class _Config(ctypes.Structure):
    """WebPDecoderConfig; the slack is for a library whose structure has grown at its end."""

    _fields_ = (("input", _Features), ("output", _Output), ("options", _Options), ("slack", ctypes.c_char * 256))


def check_webp(content: bytes) -> Facts:
    """Reads the whole picture.

    Raises:
        InvalidImageError: it is too large or animated.
        DamagedError, OSError and whatever else decoders raise: it is corrupt or cut short.
    """
    exif = _exif(content)
    library = libwebp()
    width, height = _decoded_by_pillow(content) if library is None else _decoded(library, content)
    return Facts(width=width, height=height, exif=exif)


def _exif(content: bytes) -> bytes:
    """The EXIF block; refuses animations and files that are cut short."""
    exif = b""
    for kind, data in _chunks(content):
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and data and data[0] & _ANIMATION_FLAG):
            raise InvalidImageError(ANIMATED)
        if kind == b"EXIF" and not exif:
            exif = data
    return exif


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = _CHUNK_HEADER_BYTES + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise DamagedError
    position = _HEADER_BYTES
    for _ in range(_MAX_CHUNKS):
        if position + _CHUNK_HEADER_BYTES > end:
            return
        kind, length = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "little")
        start = position + _CHUNK_HEADER_BYTES
        if start + length > end:
            raise DamagedError
        # Only of small chunks is the content looked at; the picture's is not copied.
        yield kind, content[start : start + length] if kind in (b"EXIF", b"VP8X") else b""
        position = start + length + length % 2
    msg = f"The WebP has more than {_MAX_CHUNKS:,} chunks; save it again as an ordinary WebP."
    raise InvalidImageError(msg)


@cache
def libwebp() -> ctypes.CDLL | None:
    """The library that Pillow was linked with; None where it cannot be called by itself (then only smaller pictures are taken)."""
    try:
        from PIL import _webp

        # Symbols of what a library depends on are found through it.
        library = ctypes.CDLL(_webp.__file__)
        library.WebPInitDecoderConfigInternal.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.WebPGetFeaturesInternal.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int)
        library.WebPDecode.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
        library.WebPFreeDecBuffer.argtypes = (ctypes.c_void_p,)
        library.WebPFreeDecBuffer.restype = None
    except (ImportError, OSError, AttributeError):
        return None
    return library if library.WebPInitDecoderConfigInternal(ctypes.byref(_Config()), _ABI_VERSION) else None


def _decoded(library: ctypes.CDLL, content: bytes) -> tuple[int, int]:
    config = _Config()
    library.WebPInitDecoderConfigInternal(ctypes.byref(config), _ABI_VERSION)
    if library.WebPGetFeaturesInternal(content, len(content), ctypes.byref(config.input), _ABI_VERSION) != _OK:
        raise DamagedError
    width, height = int(config.input.width), int(config.input.height)
    check_size(width, height)
    config.options.use_scaling = 1
    config.options.scaled_width, config.options.scaled_height = -(-width // _SHRINK), -(-height // _SHRINK)
    try:
        # The interpreter's lock is free meanwhile.
        status = library.WebPDecode(content, len(content), ctypes.byref(config))
        if status == _OUT_OF_MEMORY:
            # It says so of some broken files too.
            raise InvalidImageError(_TOO_COSTLY)
        if status != _OK:
            raise DamagedError
    finally:
        library.WebPFreeDecBuffer(ctypes.byref(config.output))
    return width, height


def _decoded_by_pillow(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
        width, height = image.size
        check_size(width, height)
        if width * height > _MAX_PIXELS_OF_PILLOW:
            msg = f"The WebP has more than {_MAX_PIXELS_OF_PILLOW // 1_000_000} megapixels; send it as PNG or JPEG."
            raise InvalidImageError(msg)
        image.load()
    return width, height
