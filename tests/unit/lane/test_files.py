"""Files of an attempt, with an object store that is a folder."""

from __future__ import annotations

import hashlib
import io
import weakref
from pathlib import Path

import obstore
import pytest
from PIL import Image

import runtime.lane.files
from runtime.images import open_rgb
from runtime.lane.files import AttemptFiles, InputImageMissingError, StoreUnavailableError
from runtime.lane.renderer import RenderCancelled
from runtime.objects import input_key, open_object_store
from runtime.rules.check import check_request
from runtime.rules.request import GenerationRequest


def asking_for(key: str) -> GenerationRequest:
    """A request with one picture."""
    return check_request({"model": "phr00t", "mode": "i2v", "prompt": "p", "reference_image": {"key": key}})


def never() -> None:
    """Nothing is cancelled."""


def cancelled() -> None:
    """Everything is."""
    raise RenderCancelled


def test_pictures_are_decoded_when_they_are_stored(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(content, "PNG")
    store = open_object_store(tmp_path.as_uri())
    key = input_key(content.getvalue())
    obstore.put(store, key, content.getvalue())
    picture = AttemptFiles(store).images(asking_for(key), never)[key]
    assert picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize("size", [(1500, 700), (40, 30)])
def test_pictures_have_the_clip_s_size_when_they_are_stored_at_another(tmp_path: Path, size: tuple[int, int]) -> None:
    # Every picture was kept at its own size until the render had ended: 21 of 64 megapixels took 5 GiB.
    original = Image.effect_noise(size, 90).convert("RGB")
    content = io.BytesIO()
    original.save(content, "PNG")
    store = open_object_store(tmp_path.as_uri())
    key = input_key(content.getvalue())
    obstore.put(store, key, content.getvalue())
    request = asking_for(key)
    clip_size = (request.width, request.height)
    picture = AttemptFiles(store).images(request, never)[key]
    assert picture.size == clip_size
    # The pixels that a pipeline made itself from the picture at its own size.
    assert picture.tobytes() == original.resize(clip_size, Image.Resampling.BICUBIC).tobytes()
    assert picture.resize(clip_size, Image.Resampling.BICUBIC).tobytes() == picture.tobytes()


def test_one_picture_is_decoded_at_a_time_when_several_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    beside: list[int] = []

    def decode(content: bytes) -> Image.Image:
        beside.append(sum(reference() is not None for reference in alive))
        picture = open_rgb(content)
        alive.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(runtime.lane.files, "open_rgb", decode)
    store = open_object_store(tmp_path.as_uri())
    keys: list[str] = []
    for shade in range(3):
        content = io.BytesIO()
        Image.new("RGB", (9, 9), (shade, 0, 0)).save(content, "PNG")
        keys.append(input_key(content.getvalue()))
        obstore.put(store, keys[-1], content.getvalue())
    frames = [{"frame_index": 8 * index, "image": {"key": key}} for index, key in enumerate(keys)]
    request = check_request({"model": "anisora", "mode": "arbitrary_frame", "prompt": "p", "arbitrary_frames": frames})
    assert len(AttemptFiles(store).images(request, never)) == 3
    assert beside == [0, 0, 0]


def test_the_fetching_ends_when_the_attempt_is_cancelled(tmp_path: Path) -> None:
    # Nothing asked for a cancel while pictures were fetched.
    with pytest.raises(RenderCancelled):
        AttemptFiles(open_object_store(tmp_path.as_uri())).images(asking_for(input_key(b"x")), cancelled)


def test_a_missing_picture_is_told_at_once_when_it_is_not_stored(tmp_path: Path) -> None:
    files = AttemptFiles(open_object_store(tmp_path.as_uri()), pause_s=60)
    with pytest.raises(InputImageMissingError):
        files.images(asking_for(input_key(b"nothing")), never)


def test_both_files_lie_under_the_prefix_when_stored(tmp_path: Path) -> None:
    video, preview = tmp_path / "video.mp4", tmp_path / "preview.jpg"
    video.write_bytes(b"moving")
    preview.write_bytes(b"still")
    stored = AttemptFiles(open_object_store((tmp_path / "store").as_uri())).store("results/a/1/", video, preview, never)
    assert (tmp_path / "store" / stored.video_key).read_bytes() == b"moving"
    assert (tmp_path / "store" / stored.preview_key).read_bytes() == b"still"
    assert stored.video_key == "results/a/1/video.mp4"
    assert stored.size_bytes == 6
    assert stored.sha256 == hashlib.sha256(b"moving").hexdigest()


def test_the_failure_is_told_when_the_store_never_takes_the_files(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"moving")
    store = open_object_store((tmp_path / "store").as_uri())
    # A file where a folder is needed: the store cannot write.
    (tmp_path / "store" / "results").write_bytes(b"")
    with pytest.raises(StoreUnavailableError):
        AttemptFiles(store, pause_s=0).store("results/a/1/", video, video, never)


def test_the_storing_ends_when_the_attempt_is_cancelled(tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"moving")
    with pytest.raises(RenderCancelled):
        AttemptFiles(open_object_store((tmp_path / "store").as_uri())).store("results/a/1/", video, video, cancelled)


def test_trouble_is_told_once_and_its_end_when_the_store_takes_the_files_again(tmp_path: Path) -> None:
    video, told = tmp_path / "video.mp4", list[str]()
    video.write_bytes(b"moving")
    store = open_object_store((tmp_path / "store").as_uri())
    blocked, checks = tmp_path / "store" / "results", 0
    blocked.write_bytes(b"")

    def unblock_at_the_third() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            blocked.unlink()

    AttemptFiles(store, pause_s=0, on_trouble=told.append).store("results/a/1/", video, video, unblock_at_the_third)
    assert [bool(reason) for reason in told] == [True, False]
    assert "Error" in told[0]


@pytest.mark.parametrize("ends", ["gives up", "is cancelled"])
def test_trouble_is_over_when_the_attempt_is(tmp_path: Path, ends: str) -> None:
    video, told = tmp_path / "video.mp4", list[str]()
    video.write_bytes(b"moving")
    store = open_object_store((tmp_path / "store").as_uri())
    (tmp_path / "store" / "results").write_bytes(b"")
    files = AttemptFiles(store, pause_s=0, on_trouble=told.append)

    def check() -> None:
        if told and ends == "is cancelled":
            raise RenderCancelled

    with pytest.raises(RenderCancelled if ends == "is cancelled" else StoreUnavailableError):
        files.store("results/a/1/", video, video, check)
    assert [bool(reason) for reason in told] == [True, False]
