"""`python -m benchmarks.http_load`: a lean HTTP/1.1 load in a process of its own, told what to do line by line.

Each line of its input is a JSON object, each line of its output the answer: `rate` sends the given requests over so many connections, one
after the other on each, and counts; `open` opens event streams and reads them; `close` closes them; `count` says what came over them. It
understands replies with Content-Length only, which is all that the measured routes send.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any, cast

import uvloop

_STATUS = slice(9, 12)
_LENGTH = b"content-length: "


class Caller(asyncio.Protocol):
    """One connection: sends the next request when the reply to the one before is whole."""

    def __init__(self, requests: Sequence[bytes], first: int, until_s: float, wanted: bytes) -> None:
        """Begins with the request of this number; every reply must have the wanted status."""
        self.took: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = cycle([*requests[first:], *requests[:first]])
        self._until_s = until_s
        self._wanted = wanted
        self._reply = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        """Takes what came; at the end of a reply sends the next request."""
        self._reply = reply = self._reply + data if self._reply else data
        head = reply.find(b"\r\n\r\n")
        if head < 0:
            return
        at = reply.find(_LENGTH, 0, head) + len(_LENGTH)
        if len(reply) < head + 4 + int(reply[at : reply.find(b"\r\n", at)]):
            return
        now_s = time.perf_counter()
        self.took.append(now_s - self._sent_s)
        if reply[_STATUS] != self._wanted:
            self._end(RuntimeError(f"unexpected reply: {reply[:400].decode(errors='replace')}"))
        elif now_s < self._until_s:
            self._reply = b""
            self._send()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails unless it was this that closed it."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._requests))

    def _end(self, error: Exception | None) -> None:
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        self._transport.close()


class Stream(asyncio.Protocol):
    """One open event stream, read and thrown away."""

    def __init__(self, request: bytes) -> None:
        """Opened with this request."""
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_lost = False
        self.events = 0
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the stream."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Counts the events."""
        self.events += data.count(b"event: ")
        if not self.begun.done() and b"event: " in data:
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remembers it."""
        self.is_lost = True
        if not self.begun.done():
            self.begun.set_exception(exc or ConnectionResetError("the stream did not begin"))


class Load:
    """What the process does, by the name of the order."""

    def __init__(self) -> None:
        """No stream is open."""
        self._streams: list[Stream] = []

    async def rate(self, *, port: int, requests: list[str], callers: int, seconds: float, status: int) -> dict[str, Any]:
        """Seconds of each reply, how long all took, and the processor seconds of this process."""
        loop = asyncio.get_running_loop()
        raw = [request.encode("latin-1") for request in requests]
        before_s, started_s = _processor_s(), time.perf_counter()
        until_s = started_s + seconds
        made = [
            await loop.create_connection(partial(Caller, raw, first % len(raw), until_s, b"%d" % status), "127.0.0.1", port)
            for first in range(callers)
        ]
        await asyncio.gather(*(caller.done for _, caller in made))
        elapsed_s = time.perf_counter() - started_s
        took = [seconds for _, caller in made for seconds in caller.took]
        return {"took": took, "elapsed_s": elapsed_s, "processor_s": _processor_s() - before_s}

    async def open(self, *, port: int, requests: list[str], count: int) -> dict[str, Any]:
        """Answers when every stream has brought its first event."""
        loop = asyncio.get_running_loop()
        for number in range(count):
            request = requests[number % len(requests)].encode("latin-1")
            _, stream = await loop.create_connection(partial(Stream, request), "127.0.0.1", port)
            self._streams.append(stream)
        await asyncio.gather(*(stream.begun for stream in self._streams))
        return {"open": len(self._streams)}

    async def count(self) -> dict[str, Any]:
        """How many streams are still open, and the events that came over all."""
        return {
            "open": sum(not stream.is_lost for stream in self._streams),
            "events": sum(stream.events for stream in self._streams),
        }

    async def close(self) -> dict[str, Any]:
        """Closes all streams."""
        for stream in self._streams:
            stream.transport.close()
        self._streams.clear()
        return {}


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _serve() -> None:
    load = Load()
    orders: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        "rate": load.rate,
        "open": load.open,
        "count": load.count,
        "close": load.close,
    }
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        sys.stdout.write(json.dumps(await orders[order.pop("order")](**order)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
