"""Writes rendered frames as a video file and its preview: the same frames give the same bytes on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import av
from av.codec.context import Flags as CodecFlags
from av.container import Flags as ContainerFlags
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from av.video.stream import VideoStream

PREVIEW_MAX_SIDE = 512
_PREVIEW_QUALITY = 85

# A fixed number: both encoders cut their work by it, so another number gives other bytes.
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """How one output format is written.

    Attributes:
        codec: FFmpeg's name of the encoder.
        codec_options: quality settings of the encoder.
        container_options: settings of the file format.
    """

    suffix: str
    media_type: str
    codec: str
    codec_options: Mapping[str, str]
    container_options: Mapping[str, str]


# CRF 18 (H.264) and 24 (VP9) are where the loss is no longer seen on generated clips. `row-mt` off keeps VP9 bytes independent of timing.
FORMATS: Mapping[str, VideoFormat] = MappingProxyType(
    {
        "mp4": VideoFormat(
            suffix=".mp4",
            media_type="video/mp4",
            codec="libx264",
            codec_options={"crf": "18", "preset": "medium"},
            container_options={"movflags": "+faststart"},
        ),
        "webm": VideoFormat(
            suffix=".webm",
            media_type="video/webm",
            codec="libvpx-vp9",
            codec_options={"crf": "24", "deadline": "good", "cpu-used": "4", "row-mt": "0", "auto-alt-ref": "0"},
            container_options={},
        ),
    }
)


def write_video(
    frames: npt.NDArray[np.uint8],
    path: Path,
    *,
    output_format: str,
    fps: int,
    on_frame: Callable[[int, int], None],
) -> None:
    """Writes one file; frames pass through one at a time.

    Args:
        frames: uint8 RGB of shape [num_frames, height, width, 3]; even sizes.
        path: file to make.
        output_format: key of FORMATS.
        fps: frames a second.
        on_frame: called with (written, all) after each frame; what it raises ends the writing.
    """
    form = FORMATS[output_format]
    count, height, width, _ = frames.shape
    with av.open(str(path), "w", format=output_format, container_options=dict(form.container_options)) as container:
        # Without this flag the files carry random identifiers and the library's version.
        container.flags |= cast("int", ContainerFlags.bitexact.value)
        stream = cast("VideoStream", container.add_stream(form.codec, rate=fps, options=dict(form.codec_options)))
        _describe(stream, width, height)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(frames[index], format="rgb24")
            frame = frame.reformat(
                format="yuv420p",
                src_colorspace=Colorspace.ITU709,
                dst_colorspace=Colorspace.ITU709,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts = index
            container.mux(stream.encode(frame))
            on_frame(index + 1, count)
        container.mux(stream.encode(None))


def write_preview(frames: npt.NDArray[np.uint8], path: Path) -> None:
    """Writes the first frame as a JPEG, its longer side at most PREVIEW_MAX_SIDE pixels."""
    with Image.fromarray(frames[0]) as picture:
        picture.thumbnail((PREVIEW_MAX_SIDE, PREVIEW_MAX_SIDE), Image.Resampling.LANCZOS)
        picture.save(path, "JPEG", quality=_PREVIEW_QUALITY, optimize=True)


def _describe(stream: VideoStream, width: int, height: int) -> None:
    """Size, pixels and colours of the stream. BT.709 is said in the file, so that players do not guess by size."""
    context = stream.codec_context
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context.flags |= CodecFlags.bitexact
    context.thread_count = _THREADS
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
