"""The object store for results and input images: one URL, the same calls for a local folder and for S3."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

INPUT_PREFIX = "inputs/"
RESULT_PREFIX = "results/"
IMPORT_PREFIX = "imports/"
"""Of the marks that imports under way leave; see `admission.imports`."""

# How a local store names a file while it is being written.
_UNFINISHED = re.compile(r".+#\d+")

_log = structlog.get_logger()

# Nothing is ever stored there.
_PROBE_KEY = "probe"
_PROBE_S = 15.0

# `timeout` is for a whole transfer, and a viewer of a long clip may take its time; what stalls is ended by `read_timeout`. Plain http is
# used only where the endpoint (AWS_ENDPOINT_URL) says so.
_CLIENT: ClientConfig = {
    "timeout": timedelta(hours=6),
    "read_timeout": timedelta(seconds=60),
    "connect_timeout": timedelta(seconds=5),
    "allow_http": True,
}
_RETRY: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}

# What stores answer, and what whoever runs them can do.
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "NoSuchBucket": "the bucket of WARMLANE_OBJECT_STORE_URL does not exist",
        "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID is not known to the store",
        "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is wrong",
        "InvalidToken": "AWS_SESSION_TOKEN is wrong",
        "ExpiredToken": "AWS_SESSION_TOKEN has expired",
        "AccessDenied": "the credentials may not do this; see docs/howto/object-store.md for what they need",
        "PermanentRedirect": "AWS_REGION is not the bucket's region",
        "AuthorizationHeaderMalformed": "AWS_REGION is not the bucket's region",
        "RequestTimeTooSkewed": "this machine's clock is wrong",
        "QuotaExceeded": "the store is full",
    }
)
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS = re.compile(r"status code: (\d{3}[ \w]{0,40})")


def open_object_store(url: str) -> ObjectStore:
    """Opens the store at `file:///folder` (made when missing) or `s3://bucket/prefix`; connects to nothing yet.

    Credentials, region and endpoint of S3 come from the usual AWS variables; docs/howto/object-store.md lists them.

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


def is_missing(error: Exception) -> bool:
    """Whether there is no such object. A bucket that is not there has the same type of error, and means that the store is set up wrong."""
    if not isinstance(error, FileNotFoundError):
        return False
    found = _CODE.search(str(error))
    return found is None or found[1] == "NoSuchKey"


def reason_of(error: Exception) -> str:
    """What a failure of the store is called in a log, in one line; no content, and no credential."""
    text = str(error)
    if found := _CODE.search(text):
        hint = _HINTS.get(found[1])
        return found[1] if hint is None else f"{found[1]}: {hint}"
    if found := _STATUS.search(text):
        return f"{type(error).__name__}: status {found[1]}"
    # Errors of files name the file; those of the network the address; both end with the first line.
    return f"{type(error).__name__}: {text.partition(chr(10))[0][:200]}"


async def object_size(store: ObjectStore, key: str) -> int:
    """Bytes of an object that is not empty; one call.

    Not by HEAD: what that answers has no body, so a bucket that is not there would look like an object that is not there.
    """
    found = await obstore.get_async(store, key, options={"range": (0, 1)})
    # What is not read to its end costs the connection.
    await found.bytes_async()
    return found.meta["size"]


async def tell_problem(store: ObjectStore) -> None:
    """Logs what is wrong with the store, if anything: for the start of a process, which goes on either way."""
    problem = await store_problem(store)
    if problem is not None:
        _log.error("object_store_unusable", reason=problem, setting="WARMLANE_OBJECT_STORE_URL")


async def store_problem(store: ObjectStore) -> str | None:
    """What is wrong with the store; None when it answers."""
    try:
        async with asyncio.timeout(_PROBE_S):
            await obstore.get_async(store, _PROBE_KEY)
    except (BaseError, OSError) as error:
        return None if is_missing(error) else reason_of(error)
    return None


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
