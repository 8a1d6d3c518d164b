"""What a player sees of a file, and pictures to give to a model."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from fractions import Fraction

import av
from PIL import Image


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded video: every frame was really decoded."""

    codec: str
    pixel_format: str
    width: int
    height: int
    frames: int
    rate: Fraction


def decode(content: bytes) -> Seen:
    """Decodes every frame with PyAV."""
    with av.open(io.BytesIO(content), "r") as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        rate = stream.average_rate
        assert rate is not None
        sizes = {(frame.width, frame.height) for frame in frames}
        assert len(sizes) == 1
        (width, height) = sizes.pop()
        return Seen(stream.codec_context.name, str(stream.codec_context.pix_fmt), width, height, len(frames), rate)


def picture(colour: tuple[int, int, int] = (200, 80, 40), size: int = 256) -> bytes:
    """A PNG with a bright square on a plain ground."""
    image = Image.new("RGB", (size, size), colour)
    image.paste((255, 255, 255), (size // 4, size // 4, size // 2, size // 2))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """The content as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
