"""The model hub: what a repository holds at a revision, and downloads that go on where they were cut off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

# Before the import that reads them. A bar of its own would stand in the way of the command's. And the plain protocol goes on within a
# file that was cut off; a user's own setting wins.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from httpx2 import HTTPError
from huggingface_hub import HfApi, constants, errors, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers

from runtime.lane.prepare.failures import Cause, PrepareError

_LISTING_TIMEOUT_S = 30.0
"""A repository of thousands of files is listed in a second or two. Downloads have the library's own: 10 s without a byte, five tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """What the hub says of a file. Large files have a `sha256`; small ones a `blob_id`, as git makes it."""

    name: str
    size_bytes: int
    sha256: str | None
    blob_id: str | None

    def is_of(self, path: Path, sha256: str) -> bool:
        """Whether a file, whose SHA-256 is given, is this one."""
        if self.sha256 is not None:
            return sha256 == self.sha256
        content = path.read_bytes()
        return self.blob_id in {None, hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A repository at a commit."""

    repository: str
    commit: str
    files: dict[str, HubFile]


def list_repository(repository: str, revision: str) -> Listing:
    """What a repository holds.

    Raises:
        PrepareError: the hub is not reached, or it has no such repository or revision, or does not show it.
    """
    with _hub_errors(repository, revision):
        found = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=_LISTING_TIMEOUT_S)
        files = {
            one.rfilename: HubFile(
                name=one.rfilename,
                size_bytes=one.size or 0,
                sha256=one.lfs.sha256 if one.lfs is not None else None,
                blob_id=None if one.lfs is not None else one.blob_id,
            )
            for one in found.siblings or ()
        }
    return Listing(repository=repository, commit=str(found.sha), files=files)


def downloads(listing: Listing, folder: Path) -> Path:
    """Where the files of a repository at its commit lie, as they do there."""
    return folder / listing.repository.replace("/", "--") / listing.commit


def fetch(listing: Listing, file: HubFile, folder: Path, on_bytes: Callable[[str, int], None]) -> Path:
    """Downloads a file into the folder, unless it is there.

    A download that was cut off, also by the end of this process, goes on where it was. (huggingface_hub's own download begins anew.)

    Raises:
        PrepareError: the hub is not reached, or the disk is full. What came is kept.
    """
    path = downloads(listing, folder) / file.name
    if path.is_file() and path.stat().st_size == file.size_bytes:
        on_bytes(file.name, file.size_bytes)
        return path
    unfinished = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if unfinished.exists() and unfinished.stat().st_size > file.size_bytes:
        unfinished.unlink()
    with _hub_errors(listing.repository, listing.commit), unfinished.open("ab") as content:
        done = content.tell()
        on_bytes(file.name, done)
        told = _Told(content, lambda count: on_bytes(file.name, count))
        url = hf_hub_url(listing.repository, file.name, revision=listing.commit, endpoint=constants.ENDPOINT)
        # Not compressed: the bytes of a range must be those of the file.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        http_get(url, cast("BinaryIO", told), resume_size=done, headers=headers, expected_size=file.size_bytes)
        content.flush()
        os.fsync(content.fileno())
    unfinished.rename(path)
    return path


class _Told:
    """A file that tells how many bytes are written to it. The library starts over, by a seek, when a server cannot go on."""

    def __init__(self, file: BinaryIO, on_count: Callable[[int], None]) -> None:
        self._file = file
        self._on_count = on_count

    def write(self, content: bytes) -> int:
        self._on_count(len(content))
        return self._file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._on_count(offset - self._file.tell())
        return self._file.seek(offset, whence)


@contextmanager
def _hub_errors(repository: str, revision: str) -> Iterator[None]:
    """Turns what the hub's library raises into what to do about it."""
    elsewhere = "get the files on another machine and name them as local paths (docs/howto/prepare-checkpoints.md, offline)"
    try:
        yield
    except errors.GatedRepoError as error:
        msg = f"{repository} is gated: accept its conditions on the hub's page, then set HF_TOKEN to a token of yours"
        raise PrepareError(Cause.HUB, msg) from error
    except errors.RevisionNotFoundError as error:
        msg = f"{repository} has no revision {revision!r}: name a branch, a tag or a whole commit"
        raise PrepareError(Cause.HUB, msg) from error
    except errors.RepositoryNotFoundError as error:
        msg = f"the hub has no repository {repository}, or shows it only with a token (HF_TOKEN)"
        raise PrepareError(Cause.HUB, msg) from error
    except errors.OfflineModeIsEnabled as error:
        msg = f"HF_HUB_OFFLINE is set, so the hub is not asked for {repository}. Unset it, or {elsewhere}"
        raise PrepareError(Cause.HUB, msg) from error
    except errors.HfHubHTTPError as error:
        msg = f"the hub answered {error.response.status_code} for {repository} at {revision}. What came is kept: try this again later"
        raise PrepareError(Cause.HUB, msg) from error
    except HTTPError as error:
        msg = (
            f"the hub does not answer at {constants.ENDPOINT} ({type(error).__name__}). What came is kept: the same command "
            f"goes on from there. Without a network: {elsewhere}"
        )
        raise PrepareError(Cause.HUB, msg) from error
    except errors.HFValidationError as error:
        raise PrepareError(Cause.ASKED, f"{repository!r} is no name of a repository, which is OWNER/NAME") from error
    except OSError as error:
        # Of the disk, except the library's own complaint that a download has another size than was stated.
        if error.errno is None:
            msg = f"the download from {repository} is not whole ({error}). The same command goes on from there"
            raise PrepareError(Cause.HUB, msg) from error
        msg = f"the download could not be written: {error.strerror}. What came is kept: make room, and the same command goes on from there"
        raise PrepareError(Cause.DISK, msg) from error
