"""The object store as the bridge uses it: bounded reads and writes, each with a timeout and errors that HTTP can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import BaseError

from http_bridge.errors import HttpError
from runtime.errors import ErrorCode
from runtime.objects import is_missing, object_size, reason_of

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ObjectStore

    from http_bridge.ranges import ByteRange

_LOG = structlog.get_logger()

# What one reader holds in memory; large enough that a video takes few round trips.
_CHUNK_BYTES = 256 * 1024
_OPEN_TIMEOUT_S = 10.0
_CHUNK_TIMEOUT_S = 30.0
_PUT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedFile:
    """A file in the store: its whole size in bytes and the bytes that were asked for, in chunks."""

    size_bytes: int
    chunks: AsyncGenerator[bytes, None]


async def open_file(objects: ObjectStore, key: str, part: ByteRange | None = None) -> OpenedFile:
    """Opens a file, or a part of it, for reading: one call of the store. Whoever opens it closes `chunks`.

    Raises:
        HttpError: `result_not_found`, or `service_unavailable` when the store does not answer.
    """
    options: GetOptions = {} if part is None else {"range": (part.start, part.end)}
    async with _translated():
        found = await obstore.get_async(objects, key, options=options)
    return OpenedFile(size_bytes=found.meta["size"], chunks=_chunks(found.stream(min_chunk_size=_CHUNK_BYTES)))


async def file_size(objects: ObjectStore, key: str) -> int:
    """Size of a file in bytes. Raises as `open_file`."""
    async with _translated():
        return await object_size(objects, key)


async def put_file(objects: ObjectStore, key: str, content: bytes) -> None:
    """Stores a file whole; the same key may be written again. Raises HttpError `service_unavailable`."""
    async with _translated(_PUT_TIMEOUT_S):
        await obstore.put_async(objects, key, content)


async def _chunks(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    # The stream lives in here alone: it is closed with the generator.
    # A failure here is past the reply's head: it breaks the connection, which tells the client that the file is not whole.
    while True:
        try:
            async with asyncio.timeout(_CHUNK_TIMEOUT_S):
                chunk = await anext(stream, None)
        except (BaseError, OSError) as error:
            _LOG.warning("object_store_failed_in_a_file", reason=reason_of(error))
            raise
        if chunk is None:
            return
        yield bytes(chunk)


@asynccontextmanager
async def _translated(timeout_s: float = _OPEN_TIMEOUT_S) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (BaseError, OSError) as error:
        # TimeoutError is an OSError.
        if is_missing(error):
            raise HttpError("result_not_found", "The file is no longer there.") from None
        _LOG.warning("object_store_failed", reason=reason_of(error))
        raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The file store does not answer.") from error
