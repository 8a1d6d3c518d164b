"""Files of an attempt, with an object store that is a folder."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import obstore
import pytest
from PIL import Image

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


def test_pictures_are_decoded_when_they_are_stored(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(content, "PNG")
    store = open_object_store(tmp_path.as_uri())
    key = input_key(content.getvalue())
    obstore.put(store, key, content.getvalue())
    picture = AttemptFiles(store).images(asking_for(key))[key]
    assert picture.size == (4, 3)
    assert picture.getpixel((0, 0)) == (1, 2, 3)


def test_a_missing_picture_is_told_at_once_when_it_is_not_stored(tmp_path: Path) -> None:
    files = AttemptFiles(open_object_store(tmp_path.as_uri()), pause_s=60)
    with pytest.raises(InputImageMissingError):
        files.images(asking_for(input_key(b"nothing")))


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
    def cancelled() -> None:
        raise RenderCancelled

    video = tmp_path / "video.mp4"
    video.write_bytes(b"moving")
    with pytest.raises(RenderCancelled):
        AttemptFiles(open_object_store((tmp_path / "store").as_uri())).store("results/a/1/", video, video, cancelled)
