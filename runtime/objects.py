"""The object store for results and input images: one URL, the same calls for a local folder and for S3."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, from_url

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

INPUT_PREFIX = "inputs/"
RESULT_PREFIX = "results/"
IMPORT_PREFIX = "imports/"
"""Of the marks that imports under way leave; see `admission.imports`."""

# How a local store names a file while it is being written.
_UNFINISHED = re.compile(r".+#\d+")

_CLIENT: ClientConfig = {"timeout": timedelta(seconds=60), "connect_timeout": timedelta(seconds=5)}
_RETRY: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


def open_object_store(url: str) -> ObjectStore:
    """Opens the store at `file:///folder` (made when missing) or `s3://bucket/prefix` (credentials from the usual AWS variables).

    Raises:
        ValueError: the URL's scheme is neither.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder, automatic_cleanup=True)
    if parts.scheme == "s3":
        return from_url(url, client_options=_CLIENT, retry_config=_RETRY)
    msg = f"the object store URL must start with file:/// or s3://, not {parts.scheme or 'nothing'!r}"
    raise ValueError(msg)


def input_key(content: bytes) -> str:
    """Key of an input image: by content, so the same picture is stored once."""
    return INPUT_PREFIX + hashlib.sha256(content).hexdigest()


def attempt_prefix(task_id: str, attempt: int) -> str:
    """Prefix of every object that one attempt writes, so no other attempt can overwrite it."""
    return f"{RESULT_PREFIX}{task_id}/{attempt}/"


def remove_unfinished(objects: ObjectStore, prefix: str) -> None:
    """Removes what a process that died left of files it was writing below the prefix, in a folder. Blocks.

    No listing shows them. S3 keeps the parts of a broken upload too, out of sight, until a rule of the bucket removes them.
    """
    folder = objects.prefix if isinstance(objects, LocalStore) else None
    if folder is None:
        return
    below = Path(folder) / prefix
    for path in [found for found in below.rglob("*#*") if _UNFINISHED.fullmatch(found.name)]:
        path.unlink(missing_ok=True)
        # The folders that are empty now, up to the prefix and it.
        for parent in path.parents:
            if not parent.is_relative_to(below):
                break
            with suppress(OSError):
                parent.rmdir()


def task_prefix(task_id: str) -> str:
    """Prefix of every object that any attempt of the task wrote."""
    return f"{RESULT_PREFIX}{task_id}/"
