"""Replies made of a stored file's bytes: sent piece by piece, and read no further once nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response

from http_bridge.ranges import ByteRange, Multipart
from http_bridge.storage import OpenedFile, open_file

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from starlette.types import Receive, Scope, Send


class FileReply(Response):
    """Sends the pieces as the client takes them.

    The client's leaving ends the reading at once and closes what is read from; a failure of the store breaks the connection, which tells
    the client that the file is not whole.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], *, status_code: int, headers: Mapping[str, str]) -> None:
        """Takes over the pieces; `headers` has their type and length."""
        super().__init__(status_code=status_code, headers=headers)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the reply."""
        del scope
        sending = asyncio.create_task(self._send(send), name="send-file")
        gone = asyncio.create_task(_until_gone(receive), name="watch-client")
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            # It may rest between two pieces, where cancelling the task does not reach it.
            await self._pieces.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def several_parts(
    objects: ObjectStore, key: str, parts: Sequence[ByteRange], first: OpenedFile, form: Multipart
) -> AsyncGenerator[bytes, None]:
    """The body of a reply with several parts; `first` is the opened first part, the others are opened when it is their turn."""
    opened = first
    for number, (part, head) in enumerate(zip(parts, form.heads, strict=True)):
        if number:
            opened = await open_file(objects, key, part)
        yield head
        try:
            async for piece in opened.chunks:
                yield piece
        finally:
            await opened.chunks.aclose()
    yield form.tail


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
