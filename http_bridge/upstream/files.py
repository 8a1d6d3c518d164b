"""Files of an upstream passed on as they come: which headers go there, which come back, and who closes the connection."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from http_bridge.errors import HttpError
from http_bridge.upstream.client import Call, OpenedReply, UpstreamBrokenError, UpstreamClient
from http_bridge.upstream.errors import not_understood

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

# What may be asked of a file; nothing else of the request travels.
_ASKED = ("Range", "If-None-Match", "If-Range")
_RANGE_HEADERS = frozenset({"Range", "If-Range"})
# What is told of it; the media type and the name are told apart.
_TOLD = ("Content-Length", "Content-Range", "ETag", "Accept-Ranges")
# Types that no browser runs code of: the file is served from our own origin.
_EXTENSIONS: Mapping[str, str] = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "video/mp4": "mp4",
    "video/webm": "webm",
}
_UNKNOWN_TYPE = "application/octet-stream"
_PARTS_TYPE = re.compile(r"multipart/byteranges; ?boundary=[0-9A-Za-z'()+_,./:=?-]{1,70}")
_NO_HEAD = frozenset({405, 501})


async def pass_on(client: UpstreamClient, request: Request, path: str, *, call: str, file_name: str, download: bool = False) -> Response:
    """The upstream's reply to GET or HEAD of a file; `download` has a browser save it.

    Raises:
        HttpError: the upstream refused, or does not answer.
    """
    is_head = request.method == "HEAD"
    # Ranges are defined for GET alone (RFC 9110, 14.2).
    names = [name for name in _ASKED if not (is_head and name in _RANGE_HEADERS)]
    # A validator of ours is ASCII; one that is not would match nothing.
    asked = {name: value for name in names if (value := request.headers.get(name)) is not None and value.isascii()}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client.file_place())
        opened = await _opened(client, request.method, path, call, asked)
        stack.push_async_callback(opened.close)
        if opened.status not in (200, 206, 304):
            raise await _refusal(client, opened)
        if opened.status == 206 and "Range" not in asked:
            raise not_understood(client.name, "a part of a file that was asked for whole")
        if opened.status == 304 and "If-None-Match" not in asked:
            raise not_understood(client.name, "no file for a client that has none")
        headers = _headers(opened, file_name, "attachment" if download else "inline")
        if is_head or opened.status == 304:
            return _head_only(opened.status, headers)
        return _PassedFile(opened, headers, stack.pop_all())


async def _opened(client: UpstreamClient, method: str, path: str, call: str, asked: Mapping[str, str]) -> OpenedReply:
    opened = await client.open(Call(name=call, method=method, path=path, headers=asked))
    if method == "HEAD" and opened.status in _NO_HEAD:
        # Many servers have GET only; the head of its reply is what was asked for.
        await opened.close()
        return await client.open(Call(name=call, method="GET", path=path, headers=asked))
    return opened


async def _refusal(client: UpstreamClient, opened: OpenedReply) -> HttpError:
    reply = await opened.whole()
    if reply.status == 416:
        size = reply.content_range or ""
        headers = {"Content-Range": size} if re.fullmatch(r"bytes \*/[0-9]{1,18}", size) else None
        return HttpError("range_not_satisfiable", "The range is outside of the file.", headers=headers)
    try:
        reply.check(of_task=True)
    except HttpError as error:
        return error
    return not_understood(client.name, f"the status {reply.status} for a file")


def _head_only(status: int, headers: Mapping[str, str]) -> Response:
    reply = Response(status_code=status, headers=headers)
    if "Content-Length" not in headers and status != 304:
        # The length of the file, which is not known; not that of no body.
        del reply.headers["Content-Length"]
    return reply


def _headers(opened: OpenedReply, file_name: str, disposition: str) -> dict[str, str]:
    headers = {name: value for name in _TOLD if (value := opened.header(name)) is not None and value.isascii() and value.isprintable()}
    if opened.header("Transfer-Encoding") is not None:
        # Then the length of the body is told by the transfer alone, whatever this says (RFC 9112, 6.3).
        headers.pop("Content-Length", None)
    if opened.status != 206:
        headers.pop("Content-Range", None)
    if opened.status == 304:
        headers.pop("Content-Length", None)
    else:
        sent = (opened.header("Content-Type") or "").strip()
        plain = sent.partition(";")[0].strip().lower()
        is_parts = opened.status == 206 and _PARTS_TYPE.fullmatch(sent) is not None
        headers["Content-Type"] = sent if is_parts else plain if plain in _EXTENSIONS else _UNKNOWN_TYPE
        if plain in _EXTENSIONS:
            # As for videos: a page of an allowed origin shows it in an element that does not ask first.
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        extension = _EXTENSIONS.get(plain, "bin")
        safe_name = re.sub(r"[^0-9A-Za-z_-]", "", file_name)
        headers["Content-Disposition"] = f'{disposition}; filename="warmlane-{safe_name}.{extension}"'
    # As for videos: a copy may be kept but not used unasked.
    headers["Cache-Control"] = "private, no-cache"
    return headers


class _PassedFile(StreamingResponse):
    """Sends the pieces; when it ends, however it ends, the upstream's reply is closed and its place is free."""

    def __init__(self, opened: OpenedReply, headers: Mapping[str, str], held: AsyncExitStack) -> None:
        super().__init__(self._pieces(opened), status_code=opened.status, headers=headers, media_type=None)
        self._held = held

    async def _pieces(self, opened: OpenedReply) -> AsyncIterator[bytes]:
        async for piece in opened.pieces():
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the reply."""
        async with self._held:
            # It is in the log. A reply that is left unfinished makes the server close the connection, which tells the client.
            with suppress(UpstreamBrokenError):
                await super().__call__(scope, receive, send)
