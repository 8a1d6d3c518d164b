"""The files of an attempt: input images out of the object store, the video and its preview into it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
import structlog
from obstore.exceptions import BaseError
from PIL import Image

from runtime.images import open_rgb
from runtime.objects import is_missing, reason_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from runtime.rules.request import GenerationRequest

_log = structlog.get_logger()

# Ten minutes in all: a clip that is rendered is worth waiting for, and a store that is full or away is seldom back at once. The attempt's
# deadline and a cancel end it earlier. S3 is tried again inside each call as well.
_TRIES = 300
_PAUSE_S = 2.0
_TOLD_EVERY = 15

_T = TypeVar("_T")


class StoreUnavailableError(Exception):
    """The object store did not do what it was asked, for as long as that is worth waiting for."""


class InputImageMissingError(Exception):
    """An image that the request names is not in the object store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiles:
    """What was stored. `sha256` and `size_bytes` are the video's."""

    video_key: str
    preview_key: str
    size_bytes: int
    sha256: str


class AttemptFiles:
    """Reads and writes the object store; blocks. Several threads may use it."""

    def __init__(self, store: ObjectStore, pause_s: float = _PAUSE_S, on_trouble: Callable[[str], None] = lambda _reason: None) -> None:
        """Keeps the store.

        Args:
            store: of the files.
            pause_s: time between tries.
            on_trouble: told why when the first of the threads tries again, and an empty text when none does any more.
        """
        self._store = store
        self._pause_s = pause_s
        self._on_trouble = on_trouble
        self._trying = 0
        self._lock = threading.Lock()

    def images(self, request: GenerationRequest, check: Callable[[], None]) -> Mapping[str, Image.Image]:
        """Every picture that the request names, by key, stretched to the clip's size. Only one is decoded at its own size at a time.

        Args:
            request: names the pictures and the size.
            check: called before each try to fetch one; what it raises ends the fetching.

        Raises:
            InputImageMissingError: one is not there.
            StoreUnavailableError: the store does not answer.
        """
        size = (request.width, request.height)
        return {key: self._picture(key, size, check) for key in sorted({image.key for image in request.images()})}

    def store(self, prefix: str, video: Path, preview: Path, check: Callable[[], None]) -> StoredFiles:
        """Stores both files under the attempt's prefix; the same names overwrite.

        Args:
            prefix: ends with a slash.
            video: file to store under its own name.
            preview: file to store under its own name.
            check: called before each try; what it raises ends the storing.

        Raises:
            StoreUnavailableError: the store does not take them.
        """
        with video.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        for path in (video, preview):
            self._repeat(lambda path=path: obstore.put(self._store, prefix + path.name, path), check)  # type: ignore[misc]
        return StoredFiles(video_key=prefix + video.name, preview_key=prefix + preview.name, size_bytes=video.stat().st_size, sha256=sha256)

    def _picture(self, key: str, size: tuple[int, int], check: Callable[[], None]) -> Image.Image:
        # The largest picture takes 244 MiB decoded, and a request may name 21: none is kept at its own size.
        return open_rgb(self._fetch(key, check)).resize(size, Image.Resampling.BICUBIC)

    def _fetch(self, key: str, check: Callable[[], None]) -> bytes:
        def get() -> bytes:
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError as error:
                if is_missing(error):
                    raise InputImageMissingError from None
                # The store is set up wrong: that is not the request's fault, and may be put right while it waits.
                raise

        return self._repeat(get, check)

    def _repeat(self, call: Callable[[], _T], check: Callable[[], None]) -> _T:
        check()
        try:
            return call()
        except (BaseError, OSError) as error:
            reason = reason_of(error)
        with self._trying_again(reason):
            for left in range(_TRIES - 1, 0, -1):
                if (_TRIES - left) % _TOLD_EVERY == 1:
                    _log.warning("object_store_retried", reason=reason, tries_left=left)
                time.sleep(self._pause_s)
                check()
                try:
                    return call()
                except (BaseError, OSError) as error:
                    reason = reason_of(error)
        raise StoreUnavailableError(reason)

    @contextmanager
    def _trying_again(self, reason: str) -> Iterator[None]:
        """Tells of it, and of its end, however it ends: what the store does then, the next try will show."""
        with self._lock:
            self._trying += 1
            if self._trying == 1:
                self._on_trouble(reason)
        try:
            yield
        finally:
            with self._lock:
                self._trying -= 1
                if self._trying == 0:
                    self._on_trouble("")
