"""Images are looked at in processes of their own: limits hold, a decoder's end is not the server's, and no key goes there."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from runtime.image_process import ImageCheckUnavailableError, ImageProcesses
from runtime.images import InvalidImageError
from tests.harness.bridge import png
from tests.harness.hostile_webp import many_tables

_PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def images() -> Iterator[ImageProcesses]:
    with ImageProcesses(1) as images:
        yield images


def _worker() -> psutil.Process:
    return next(child for child in psutil.Process().children() if "runtime.image_worker" in child.cmdline())


def test_image_is_told_of_when_it_is_good(images: ImageProcesses) -> None:
    image = images.check(png("red", (32, 16)))
    assert (image.content, image.media_type, image.width, image.height) == (png("red", (32, 16)), "image/png", 32, 16)


def _has_input(process: psutil.Process) -> bool:
    """Bytes lie in the pipe that it reads from."""
    with Path(f"/proc/{process.pid}/fd/0").open("rb", buffering=0) as pipe:
        return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) > 0


@pytest.mark.parametrize("content", [b"", b"no image", png()[:-1]])
def test_image_is_refused_when_it_is_bad(images: ImageProcesses, content: bytes) -> None:
    with pytest.raises(InvalidImageError, match="image"):
        images.check(content)


def test_image_is_refused_when_its_decoder_wants_more_memory_than_there_is(images: ImageProcesses) -> None:
    # 280 kB of file, 360 MiB of tables.
    with pytest.raises(InvalidImageError, match="takes too much memory"):
        images.check(many_tables(256))
    assert images.check(png()).width == 32


def test_image_is_refused_and_the_next_is_looked_at_when_the_decoder_crashes(images: ImageProcesses) -> None:
    images.check(png())
    first = _worker()
    first.suspend()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(images.check, png())
        ends_s = time.monotonic() + _PATIENCE_S
        while not _has_input(first):
            assert time.monotonic() < ends_s
        # As a fault in a decoder would end it, in the middle of a file.
        first.kill()
        with pytest.raises(InvalidImageError, match="takes too much time or memory"):
            waiting.result(_PATIENCE_S)
    assert images.check(png()).width == 32
    assert _worker().pid != first.pid


def test_a_process_that_ended_by_itself_is_replaced_when_an_image_comes(images: ImageProcesses) -> None:
    images.check(png())
    first = _worker()
    first.kill()
    first.wait(_PATIENCE_S)
    assert images.check(png()).width == 32


def test_no_key_is_in_the_process_when_it_looks_at_images(images: ImageProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMLANE_API_KEY", "a-secret")
    with ImageProcesses(1) as others:
        others.check(png())
        environments = [Path(f"/proc/{child.pid}/environ").read_bytes() for child in psutil.Process().children()]
    assert environments
    assert all(b"a-secret" not in environment for environment in environments)
    assert "WARMLANE_API_KEY" in os.environ


def test_nothing_is_looked_at_and_no_process_is_left_when_it_was_closed() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with ImageProcesses(2) as images:
        images.check(png())
    assert {child.pid for child in psutil.Process().children()} <= before
    with pytest.raises(ImageCheckUnavailableError, match="stopping"):
        images.check(png())
