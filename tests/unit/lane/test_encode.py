"""Videos and previews as files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from runtime.lane.encode import write_preview, write_video

FORMATS = ("mp4", "webm")


def moving_picture(*, count: int = 9, height: int = 96, width: int = 160) -> npt.NDArray[np.uint8]:
    """A colour gradient that moves to the right; compresses well, so that decoding gives nearly the same."""
    x = np.arange(width)[None, None, :] + 3 * np.arange(count)[:, None, None]
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    frames[..., 0] = 40 + (x % 160)
    frames[..., 1] = 40 + np.arange(height)[None, :, None]
    frames[..., 2] = 90
    return frames


def ignore(written: int, count: int) -> None:
    """Progress that nobody follows."""


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_file_has_the_asked_frames_size_and_rate_when_decoded(tmp_path: Path, output_format: str) -> None:
    path = tmp_path / "video"
    write_video(moving_picture(), path, output_format=output_format, fps=13, on_frame=ignore)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert stream.average_rate == 13
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert np.stack(decoded).shape == (9, 96, 160, 3)
    assert np.abs(np.stack(decoded).astype(int) - moving_picture()).mean() < 4


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_bytes_are_the_same_when_written_twice(tmp_path: Path, output_format: str) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (9, 96, 160, 3), dtype=np.uint8)
    for name in ("one", "two"):
        write_video(frames, tmp_path / name, output_format=output_format, fps=16, on_frame=ignore)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("output_format", FORMATS)
def test_one_frame_is_a_video_when_only_one_is_asked(tmp_path: Path, output_format: str) -> None:
    path = tmp_path / "video"
    write_video(moving_picture(count=1), path, output_format=output_format, fps=16, on_frame=ignore)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 1


def test_playing_can_begin_before_the_end_when_the_file_is_an_mp4(tmp_path: Path) -> None:
    path = tmp_path / "video"
    write_video(moving_picture(), path, output_format="mp4", fps=16, on_frame=ignore)
    content = path.read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")


def test_every_frame_is_told_when_written(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_video(moving_picture(count=3), tmp_path / "video", output_format="mp4", fps=16, on_frame=lambda at, of: told.append((at, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_writing_ends_when_the_listener_raises(tmp_path: Path) -> None:
    def stop(written: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(moving_picture(), tmp_path / "video", output_format="webm", fps=16, on_frame=stop)


def test_the_preview_is_the_first_frame_and_small_when_frames_are_large(tmp_path: Path) -> None:
    frames = np.zeros((2, 512, 1024, 3), dtype=np.uint8)
    frames[0] = 200
    write_preview(frames, tmp_path / "preview.jpg")
    with Image.open(tmp_path / "preview.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.size == (512, 256)
        assert picture.getpixel((5, 5)) == (200, 200, 200)
