"""One upstream over HTTP: pooled connections, bounded waits and sizes, our own key, and nothing of a caller or of earlier replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING

import httpx
import structlog

from http_bridge.upstream.errors import away, not_understood
from http_bridge.upstream.reply import Reply

if TYPE_CHECKING:
    from pydantic import SecretStr

_LOG = structlog.get_logger()

_CONNECT_S = 5.0
# For a place when all are in use.
_PLACE_S = 5.0
# The largest body over a slow line, as the bridge itself waits for one.
_UPLOAD_S = 120.0
_MAX_CALLS = 64
_MAX_IDLE = 16
# Fewer than the calls: files that slow clients read never keep a short call waiting.
_MAX_FILES = 48
# A page of a hundred items with the longest prompts is some 1 MiB.
_MAX_REPLY_BYTES = 4 * 1024 * 1024
_PIECE_BYTES = 256 * 1024

Ended = Callable[[str, str, int, float], None]
"""Told of every ended call: the upstream's name, the call's name, the status (0: none came) and the seconds it took."""


def tell_nobody(_upstream: str, _call: str, _status: int, _seconds: float) -> None:
    """For whoever does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Where and how.

    Attributes:
        name: for logs, metrics and sentences: `image`, `accounts`.
        base_url: what paths are appended to; no final slash.
        key_header: the header that carries the key.
        key: None: none is sent.
        timeout_s: for a reply to begin, for a short reply to be whole, and between two pieces of a file.
    """

    name: str
    base_url: str
    key_header: str
    key: SecretStr | None
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `path` begins with a slash and is made of checked parts only.

    Attributes:
        name: for logs and metrics; a constant of the code.
        content: the body; sent in pieces, never copied whole.
        timeout_s: instead of the upstream's.
    """

    name: str
    method: str
    path: str
    query: Mapping[str, str | int] | str | None = None
    headers: Mapping[str, str] | None = None
    content: bytes | bytearray | None = None
    timeout_s: float | None = None


class OpenedReply:
    """A reply whose head is there and whose body is still to be read; whoever got it closes it."""

    def __init__(self, response: httpx.Response, upstream: Upstream, close: Callable[[], None]) -> None:
        """Of a response that was sent as a stream."""
        self._response = response
        self._upstream = upstream
        self._on_closed = close
        self._is_closed = False

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._response.status_code

    def header(self, name: str) -> str | None:
        """A header of the reply."""
        found: str | None = self._response.headers.get(name)
        return found

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `UpstreamBrokenError`: it ended early, or the next piece did not come in time."""
        try:
            async for piece in self._response.aiter_raw():
                yield piece
        except httpx.HTTPError as error:
            _LOG.warning("upstream_file_broken", upstream=self._upstream.name, error=type(error).__name__)
            msg = f"the {self._upstream.name} upstream stopped in the middle of a file"
            # Without its cause: that holds the request.
            raise UpstreamBrokenError(msg) from None

    async def whole(self, limit_s: float | None = None) -> Reply:
        """The body, read to its end. Raises HttpError `service_unavailable`: it did not come in time, or is not one to read."""
        content = bytearray()
        async with _translated(self._upstream), asyncio.timeout(limit_s or self._upstream.timeout_s):
            async for piece in self._response.aiter_raw():
                content += piece
                if len(content) > _MAX_REPLY_BYTES:
                    raise not_understood(self._upstream.name, f"a reply of over {_MAX_REPLY_BYTES} bytes")
        key = self._upstream.key
        if key is not None and key.get_secret_value().encode() in content:
            raise not_understood(self._upstream.name, "a reply that holds our key")
        return Reply(
            upstream=self._upstream.name,
            status=self.status,
            content=bytes(content),
            retry_after=self.header("retry-after"),
            content_type=self.header("content-type"),
            content_range=self.header("content-range"),
        )

    async def close(self) -> None:
        """Gives the connection back or, when the body was not read to its end, closes it."""
        if not self._is_closed:
            self._is_closed = True
            try:
                await self._response.aclose()
            finally:
                self._on_closed()


class UpstreamBrokenError(Exception):
    """A file ended early. The head of our reply is out: only a broken connection can tell the client."""


class UpstreamClient:
    """Calls one upstream. Started and closed with the application."""

    def __init__(self, upstream: Upstream, *, on_ended: Ended = tell_nobody, now_s: Callable[[], float] = time.monotonic) -> None:
        """Keeps where it is; `start` makes the pool."""
        self._upstream = upstream
        self._on_ended = on_ended
        self._now_s = now_s
        self._http: httpx.AsyncClient | None = None

    @property
    def name(self) -> str:
        """The upstream's name."""
        return self._upstream.name

    @property
    def timeout_s(self) -> float:
        """What the upstream is given to answer."""
        return self._upstream.timeout_s

    async def start(self) -> None:
        """Makes the pool in the running loop; connections are made when they are needed."""
        upstream = self._upstream
        self._calls = asyncio.Semaphore(_MAX_CALLS)
        self._files = asyncio.Semaphore(_MAX_FILES)
        headers = {"User-Agent": "warmlane", "Accept": "*/*", "Accept-Encoding": "identity"}
        if upstream.key is not None:
            headers[upstream.key_header] = upstream.key.get_secret_value()
        self._http = httpx.AsyncClient(
            headers=headers,
            # A jar that takes none: a cookie of one reply must not come with the next request, which may be of another person.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(upstream.timeout_s, connect=min(_CONNECT_S, upstream.timeout_s)),
            # Our own places bound the connections. The pool's queue must stay empty: it loses a connection for good when a request is
            # cancelled between its turn and its start.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MAX_IDLE, keepalive_expiry=30.0),
            follow_redirects=False,
            # Proxies, .netrc and certificates of the environment are not the operator's word to us.
            trust_env=False,
        )

    async def close(self) -> None:
        """Ends every connection."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def call(self, call: Call) -> Reply:
        """The whole reply, whatever its status.

        Raises:
            HttpError: `service_unavailable`, none came in time or it cannot be read.
        """
        opened = await self.open(call)
        try:
            return await opened.whole(call.timeout_s)
        finally:
            await opened.close()

    @asynccontextmanager
    async def file_place(self) -> AsyncIterator[None]:
        """One of the places for files that are passed on; kept until the file is through. Raises HttpError `service_unavailable`."""
        await self._take(self._files)
        try:
            yield
        finally:
            self._files.release()

    async def _take(self, places: asyncio.Semaphore) -> None:
        try:
            async with asyncio.timeout(_PLACE_S):
                await places.acquire()
        except TimeoutError:
            _LOG.warning("upstream_places_full", upstream=self.name)
            raise away(self.name) from None

    async def open(self, call: Call) -> OpenedReply:
        """The reply with its body unread; the caller closes it. Raises as `call`."""
        assert self._http is not None, "the client is not started"  # noqa: S101 - an error of the code
        await self._take(self._calls)
        started_s, status = self._now_s(), 0

        def ended() -> None:
            self._calls.release()
            self._on_ended(self.name, call.name, status, self._now_s() - started_s)

        limit_s = call.timeout_s or self._upstream.timeout_s
        upload_s = _UPLOAD_S if call.content else 0.0
        try:
            async with _translated(self._upstream), asyncio.timeout(limit_s + upload_s):
                response = await self._http.send(self._request(self._http, call), stream=True)
        except BaseException:
            ended()
            raise
        status = response.status_code
        opened = OpenedReply(response, self._upstream, ended)
        if response.headers.get("content-encoding", "identity") != "identity":
            await opened.close()
            raise not_understood(self.name, "a compressed reply, which was not asked for")
        return opened

    def _request(self, http: httpx.AsyncClient, call: Call) -> httpx.Request:
        headers = dict(call.headers or {})
        if call.content is not None:
            headers["Content-Length"] = str(len(call.content))
        extensions = {} if call.timeout_s is None else {"timeout": {**http.timeout.as_dict(), "read": call.timeout_s}}
        return http.build_request(
            call.method,
            # A query that was given as text stays as it is.
            self._upstream.base_url + call.path + (f"?{call.query}" if isinstance(call.query, str) else ""),
            params=None if isinstance(call.query, str) else call.query,
            headers=headers,
            content=None if call.content is None else _in_pieces(call.content),
            extensions=extensions or None,
        )


@asynccontextmanager
async def _translated(upstream: Upstream) -> AsyncIterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        # The kind alone: the text of some errors names what was sent.
        _LOG.warning("upstream_failed", upstream=upstream.name, error=type(error).__name__)
        raise away(upstream.name) from None


async def _in_pieces(content: bytes | bytearray) -> AsyncIterator[bytes]:
    with memoryview(content) as view:
        for start in range(0, len(view), _PIECE_BYTES):
            yield bytes(view[start : start + _PIECE_BYTES])
