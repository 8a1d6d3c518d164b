"""Which bytes are an input image, and how a picture is opened."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from runtime import images
from runtime.images import MAX_IMAGE_BYTES, MAX_JPEG_SCANS, InvalidImageError, check_data_uri, check_image, open_rgb, parse_data_uri

_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_FORMAT = pytest.mark.parametrize("file_format", _TYPES)


def _picture(width: int = 48, height: int = 32) -> Image.Image:
    """A gradient, so that no two rows or columns are alike."""
    picture = Image.new("RGB", (width, height))
    picture.putdata([(x * 5 % 256, y * 7 % 256, (x * y) % 256) for y in range(height) for x in range(width)])
    return picture


def _file(picture: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def _uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims the size: what a decompression bomb looks like."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = (_png_chunk(b"IHDR", header), _png_chunk(b"IDAT", zlib.compress(b"\0" * 64)), _png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@_FORMAT
def test_type_and_size_are_told_when_the_image_is_good(file_format: str) -> None:
    content = _file(_picture(48, 32), file_format)
    image = check_image(content)
    assert (image.content, image.media_type, image.width, image.height) == (content, _TYPES[file_format], 48, 32)


@_FORMAT
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
def test_the_image_is_refused_when_it_is_cut_short(file_format: str, kept: float) -> None:
    content = _file(_picture(), file_format)
    with pytest.raises(InvalidImageError):
        check_image(content[: int(len(content) * kept)])


@_FORMAT
def test_the_image_is_refused_when_its_last_byte_is_missing(file_format: str) -> None:
    content = _file(_picture(), file_format)
    with pytest.raises(InvalidImageError, match=r"^The image is corrupt or cut short: it could not be decoded as image/\w+\.$"):
        check_image(content[:-1])


@_FORMAT
def test_the_image_is_refused_when_only_its_first_bytes_are_real(file_format: str) -> None:
    with pytest.raises(InvalidImageError, match="corrupt"):
        check_image(_file(_picture(), file_format)[:16] + b"\0" * 500)


def test_a_png_is_refused_when_a_checksum_is_wrong() -> None:
    content = bytearray(_file(_picture(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(InvalidImageError, match="corrupt"):
        check_image(bytes(content))


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "ICO", "PPM"])
def test_the_image_is_refused_when_it_is_of_another_format(file_format: str) -> None:
    with pytest.raises(InvalidImageError, match=r"^The image is not PNG, JPEG or WebP\.$"):
        check_image(_file(_picture(), file_format))


@pytest.mark.parametrize("content", [b"hello", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"RIFF\0\0\0\0WAVEfmt "])
def test_the_bytes_are_refused_when_they_are_no_image(content: bytes) -> None:
    with pytest.raises(InvalidImageError, match="not PNG, JPEG or WebP"):
        check_image(content)


def test_the_image_is_refused_when_it_is_empty() -> None:
    with pytest.raises(InvalidImageError, match="empty"):
        check_image(b"")


def test_the_limit_counts_bytes_of_the_file_when_it_is_large() -> None:
    content = _file(_picture(), "JPEG")
    assert check_image(content + b"\0" * (MAX_IMAGE_BYTES - len(content))).width == 48
    with pytest.raises(InvalidImageError, match="larger than 12 MiB"):
        check_image(content + b"\0" * (MAX_IMAGE_BYTES - len(content) + 1))


# 64 megapixels and a little; between Pillow's warning and its error; beyond its error.
@pytest.mark.parametrize(("width", "height"), [(8000, 8001), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_the_image_is_refused_by_its_header_when_it_has_too_many_pixels(width: int, height: int) -> None:
    with pytest.raises(InvalidImageError, match="more than 64 megapixels"):
        check_image(_png_claiming(width, height))


def test_64_megapixels_are_accepted_when_the_file_is_small() -> None:
    assert check_image(_file(Image.new("1", (8000, 8000)), "PNG")).width == 8000


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_the_image_is_refused_when_it_is_animated(file_format: str) -> None:
    frames = [_picture(), _picture().rotate(180)]
    content = _file(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(InvalidImageError, match=r"^The image is animated; send a still picture\.$"):
        check_image(content)


def test_a_phone_photo_is_a_jpeg_when_it_carries_a_second_picture() -> None:
    content = _file(_picture(48, 32), "MPO", save_all=True, append_images=[_picture(24, 16)])
    image = check_image(content)
    assert (image.media_type, image.width, image.height) == ("image/jpeg", 48, 32)
    assert open_rgb(content).size == (48, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_the_picture_is_rgb_when_the_file_is_of_any_mode(mode: str) -> None:
    picture = Image.new(mode, (40, 30)) if mode == "I;16" else _picture(40, 30).convert(mode)
    opened = open_rgb(_file(picture, "PNG"))
    assert (opened.mode, opened.size) == ("RGB", (40, 30))


def test_the_picture_is_rgb_when_the_file_is_cmyk() -> None:
    assert open_rgb(_file(_picture().convert("CMYK"), "JPEG")).mode == "RGB"


def test_transparency_becomes_white_when_the_picture_is_opened() -> None:
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(255, 0, 0, 0), (255, 0, 0, 128), (255, 0, 0, 255)])
    opened = open_rgb(_file(picture, "PNG"))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (255, 127, 127), (255, 0, 0)]


def test_a_transparent_palette_colour_becomes_white_when_the_picture_is_opened() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    opened = open_rgb(_file(picture, "PNG", transparency=0))
    assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (40, 50, 60)]


def test_16_bit_grey_is_scaled_when_the_picture_is_opened() -> None:
    # Clipping would make everything over 255 white: 32896 / 257 = 128.
    picture = Image.frombytes("I;16", (3, 1), struct.pack("<3H", 0, 32896, 65535))
    opened = open_rgb(_file(picture, "PNG"))
    assert [opened.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


# Where the stored top-left pixel is found in the upright picture of a stored 2 x 1 file.
@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [
        (1, (2, 1), (0, 0)),
        (2, (2, 1), (1, 0)),
        (3, (2, 1), (1, 0)),
        (4, (2, 1), (0, 0)),
        (5, (1, 2), (0, 0)),
        (6, (1, 2), (0, 0)),
        (7, (1, 2), (0, 1)),
        (8, (1, 2), (0, 1)),
        (9, (2, 1), (0, 0)),
    ],
)
def test_the_picture_is_upright_when_the_file_says_how_it_lies(orientation: int, size: tuple[int, int], corner: tuple[int, int]) -> None:
    picture = Image.new("RGB", (2, 1))
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _file(picture, "PNG", exif=exif)
    checked = check_image(content)
    opened = open_rgb(content)
    assert (checked.width, checked.height) == opened.size == size
    assert opened.getpixel(corner) == (255, 0, 0)


# Pillow warns of the damage and goes on; the tests' settings make any warning an error.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_the_picture_is_taken_as_it_lies_when_its_exif_is_damaged() -> None:
    content = _file(_picture(48, 32), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert check_image(content).width == 48


@_FORMAT
def test_a_data_uri_gives_its_image_when_it_is_good(file_format: str) -> None:
    content = _file(_picture(), file_format)
    image = check_data_uri(_uri(content, _TYPES[file_format]))
    assert (image.content, image.media_type) == (content, _TYPES[file_format])


def test_a_data_uri_is_refused_when_it_declares_another_type() -> None:
    uri = _uri(_file(_picture(), "JPEG"), "image/png")
    with pytest.raises(InvalidImageError, match=r"^The data URI declares image/png, but the image is image/jpeg\.$"):
        check_data_uri(uri)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "data:",
        "data:image/png;base64",
        "data:image/png,AAAA",
        "data:image/gif;base64,AAAA",
        "data:image/jpg;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:image/png;charset=utf-8;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        " data:image/png;base64,AAAA",
        "https://example.com/cat.png",
        "x" * 100_000,
    ],
)
def test_a_text_is_refused_when_it_is_no_data_uri_of_an_image(value: str) -> None:
    with pytest.raises(InvalidImageError, match=r"^The image must be a data URI that starts with one of: data:image/png;base64,"):
        parse_data_uri(value)


@pytest.mark.parametrize("value", [None, 5, b"data:image/png;base64,AAAA", ["data:image/png;base64,AAAA"], {}])
def test_a_value_is_refused_when_it_is_no_text(value: object) -> None:
    with pytest.raises(InvalidImageError, match="must be a data URI"):
        check_data_uri(value)


@pytest.mark.parametrize("payload", ["AAA", "AAAA\n", "AA AA", "AAA-", "AAAA====", "=AAA", "AÄAA", "AA==AAAA"])
def test_the_base64_is_refused_when_it_is_not_strict(payload: str) -> None:
    with pytest.raises(InvalidImageError, match="does not hold valid base64"):
        parse_data_uri(f"data:image/png;base64,{payload}")


def test_the_header_may_be_of_any_case_when_it_is_a_data_uri() -> None:
    assert parse_data_uri("DATA:Image/PNG;BASE64,AAAA") == ("image/png", b"\0\0\0")


def test_a_data_uri_is_refused_before_decoding_when_it_is_too_long() -> None:
    # Not even base64: decoding it would have told another reason.
    with pytest.raises(InvalidImageError, match="larger than 12 MiB"):
        parse_data_uri("data:image/png;base64," + "!" * (MAX_IMAGE_BYTES // 3 * 4 + 1))


def test_an_empty_image_is_refused_when_the_data_uri_holds_nothing() -> None:
    with pytest.raises(InvalidImageError, match="empty"):
        check_data_uri("data:image/png;base64,")


def _progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until it has so many."""
    content = _file(_picture(), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    # With the table that the scan uses, and without the end of the file.
    scan = content[content.rindex(b"\xff\xc4", 0, last) : -2]
    return content[:-2] + scan * (scans - content.count(b"\xff\xda")) + b"\xff\xd9"


def test_a_jpeg_is_accepted_when_it_has_as_many_scans_as_allowed() -> None:
    assert check_image(_progressive(MAX_JPEG_SCANS)).width == 48


# Each repeat of a scan is a pass over the whole picture: 12 MiB of them took 80 minutes to decode.
@pytest.mark.parametrize("open_image", [check_image, open_rgb])
def test_a_jpeg_is_refused_before_decoding_when_it_has_too_many_scans(open_image: Callable[[bytes], object]) -> None:
    with pytest.raises(InvalidImageError, match=r"^The JPEG has more than 100 scans; save it again as an ordinary JPEG\.$"):
        open_image(_progressive(MAX_JPEG_SCANS + 1))


def test_scans_are_found_when_false_markers_lie_between_them() -> None:
    # A decoder passes over these: neither a length nor an end must be read into them.
    content = _progressive(MAX_JPEG_SCANS + 1)
    inside = content.index(b"\xff\xda") + 20
    hidden = content[:inside] + b"\xff\x02\xff\xff\xff\x00\xff\xd0\xff\xff" + content[inside:]
    with pytest.raises(InvalidImageError, match="more than 100 scans"):
        check_image(hidden)


def test_a_jpeg_is_refused_when_it_is_cut_into_very_many_segments() -> None:
    content = _progressive(MAX_JPEG_SCANS + 1)
    with pytest.raises(InvalidImageError, match="more than 100 scans"):
        check_image(content[:2] + b"\xff\xfe\x00\x02" * 5000 + content[2:])


def test_a_phone_photo_is_accepted_when_a_film_follows_the_picture() -> None:
    # The film's bytes are arbitrary: in some MiB of them, the two of a scan's marker are found more than 100 times.
    film = b"ftypmp42" + b"\x12\xff\xda\x34" * 500
    assert check_image(_file(_picture(), "JPEG") + film).width == 48


def test_a_jpeg_is_accepted_when_its_metadata_looks_like_scans() -> None:
    assert check_image(_file(_picture(), "JPEG", comment=b"\xff\xda" * 500)).width == 48


async def test_large_pictures_are_decoded_one_at_a_time_and_small_ones_beside_them() -> None:
    # A WebP of 64 megapixels takes 1 GB, its file 3 KB: two of them at once ended a bridge that had 2 GB.
    file = io.BytesIO()
    Image.new("L", (8000, 2100)).save(file, "PNG")
    with images._ONE_LARGE:
        large = asyncio.create_task(asyncio.to_thread(images.check_image, file.getvalue()))
        small = io.BytesIO()
        Image.new("L", (4000, 4000)).save(small, "PNG")
        assert (await asyncio.to_thread(images.check_image, small.getvalue())).width == 4000
        assert not large.done()
    assert (await large).width == 8000
