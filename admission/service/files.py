"""Input images and results in the object store, as the services use them: calls bounded in time, failures told to the client."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import BaseError

from runtime.errors import ErrorCode, ServiceError
from runtime.objects import input_key, is_missing, object_size, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator

    from obstore.store import ObjectStore

CHUNK_BYTES = 256 * 1024
"""Largest chunk that is read or sent at a time."""

# Longer than any healthy answer of a store in the same region, shorter than what people wait for.
_TIMEOUT_S = 20.0
_RETRY_AFTER_S = 5.0
# Looking up the images of one request: at most 24 exist, so this bounds the connections of one call.
_LOOKUPS_AT_ONCE = 8

_log = structlog.get_logger()


class Files:
    """The files of one object store. Every method may raise `service_unavailable`."""

    def __init__(self, objects: ObjectStore) -> None:
        """Serves from this store; somebody else owns it."""
        self._objects = objects

    async def put_input(self, content: bytes) -> str:
        """Stores a checked image; returns its key, the same for the same bytes.

        What is there already is written again: its age starts anew, for whoever removes old inputs.
        """
        key = input_key(content)
        with _told_as_unavailable("put"):
            async with asyncio.timeout(_TIMEOUT_S):
                await obstore.put_async(self._objects, key, content)
        return key

    async def size(self, key: str) -> int | None:
        """Bytes of the file; None when there is none."""
        with _told_as_unavailable("head"):
            async with asyncio.timeout(_TIMEOUT_S):
                try:
                    return await object_size(self._objects, key)
                except FileNotFoundError as error:
                    if is_missing(error):
                        return None
                    raise

    async def missing(self, keys: Collection[str]) -> frozenset[str]:
        """Those of the keys that name no file."""
        at_once = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

        async def size(key: str) -> int | None:
            async with at_once:
                return await self.size(key)

        distinct = sorted(set(keys))
        sizes = await asyncio.gather(*(size(key) for key in distinct))
        return frozenset(key for key, found in zip(distinct, sizes, strict=True) if found is None)

    async def read(self, key: str, offset: int) -> AsyncGenerator[bytes, None]:
        """The bytes from offset on, which must be below the file's size, in chunks of at most CHUNK_BYTES."""
        with _told_as_unavailable("get"):
            async with asyncio.timeout(_TIMEOUT_S):
                found = await obstore.get_async(self._objects, key, options={"range": {"offset": offset}})
        chunks = aiter(found.stream(min_chunk_size=CHUNK_BYTES))
        while True:
            with _told_as_unavailable("get"):
                async with asyncio.timeout(_TIMEOUT_S):
                    chunk = await anext(chunks, None)
            if chunk is None:
                return
            content = memoryview(chunk)
            for start in range(0, len(content), CHUNK_BYTES):
                yield bytes(content[start : start + CHUNK_BYTES])


@contextmanager
def _told_as_unavailable(operation: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        # TimeoutError is an OSError.
        _log.warning("object_store_failed", operation=operation, reason=reason_of(error))
        raise ServiceError(
            code=ErrorCode.SERVICE_UNAVAILABLE, message="The file store does not answer.", retry_after_s=_RETRY_AFTER_S
        ) from error
