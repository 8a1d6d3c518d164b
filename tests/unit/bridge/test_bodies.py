"""How many large bodies are in memory at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import Request

from http_bridge.bodies import LargeBodies, Pace, read_body
from http_bridge.errors import HttpError

MIB = 1024 * 1024


class Body:
    """A request whose body comes in pieces of 256 KiB; `read` counts those that were taken."""

    def __init__(self, size: int, *, is_declared: bool = True, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.read = 0
        self._left = size
        declared = ((b"content-length", str(size).encode()),) if is_declared else ()
        self.request = Request({"type": "http", "method": "POST", "path": "/", "headers": [*declared, *headers]}, self._receive)

    async def _receive(self) -> MutableMapping[str, Any]:
        self.read += 1
        piece = bytes(min(self._left, MIB // 4))
        self._left -= len(piece)
        return {"type": "http.request", "body": piece, "more_body": self._left > 0}


async def _size(bodies: LargeBodies, body: Body) -> int:
    async with bodies.room() as room:
        return len(await read_body(body.request, room, limit_bytes=64 * MIB, timeout_s=5))


DECLARED = pytest.mark.parametrize("is_declared", [True, False])


# 12 clients that sent 60 MiB each took 12 times 60 MiB: nothing bounded how many were read at once.
@DECLARED
async def test_large_body_is_not_read_on_when_every_place_is_taken(is_declared: bool) -> None:
    bodies = LargeBodies(1)
    body = Body(2 * MIB, is_declared=is_declared)
    async with bodies.room() as room:
        await room.ensure(2 * MIB)
        reading = asyncio.create_task(_size(bodies, body))
        for _ in range(50):
            await asyncio.sleep(0)
        # Without a declared size, the first piece beyond 1 MiB tells.
        assert (reading.done(), body.read) == (False, 0 if is_declared else 5)
    async with asyncio.timeout(5):
        assert await reading == 2 * MIB


@DECLARED
async def test_small_body_is_read_when_every_place_is_taken(is_declared: bool) -> None:
    bodies = LargeBodies(1, wait_s=0)
    async with bodies.room() as room:
        await room.ensure(2 * MIB)
        assert await _size(bodies, Body(MIB, is_declared=is_declared)) == MIB


@pytest.mark.parametrize(("headers", "pieces_read"), [((), 8), (((b"expect", b"100-continue"),), 0)])
async def test_client_is_told_to_come_again_when_no_place_is_free_in_time(
    headers: tuple[tuple[bytes, bytes], ...], pieces_read: int
) -> None:
    bodies = LargeBodies(1, wait_s=0.01)
    body = Body(2 * MIB, headers=headers)
    async with bodies.room() as room:
        await room.ensure(2 * MIB)
        with pytest.raises(HttpError) as caught:
            await _size(bodies, body)
    reply = caught.value.response()
    assert (reply.status_code, json.loads(bytes(reply.body))["detail"]["code"]) == (503, "service_unavailable")
    assert (reply.headers["Retry-After"], reply.headers["Connection"]) == ("5", "close")
    # What the client still sends is thrown away, or it would never see the reply; one that asks first has sent nothing.
    assert body.read == pieces_read


async def test_place_is_free_when_its_request_fails() -> None:
    bodies = LargeBodies(1, wait_s=0.01)

    async def fail() -> None:
        async with bodies.room() as room:
            await room.ensure(2 * MIB)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await _size(bodies, Body(2 * MIB)) == 2 * MIB


@DECLARED
async def test_one_place_is_taken_when_a_body_grows(is_declared: bool) -> None:
    bodies = LargeBodies(1, wait_s=0.01)
    assert [await _size(bodies, Body(8 * MIB, is_declared=is_declared)) for _ in range(2)] == [8 * MIB] * 2


def test_deadline_moves_on_when_a_window_brought_enough() -> None:
    pace = Pace(10_000, window_s=10)
    assert pace.deadline_s(100, 0) == 110
    # 99,999 bytes are not enough for a window of 10 s at 10,000 bytes/s; one more is, and the next window begins.
    assert pace.deadline_s(105, 99_999) == 110
    assert pace.deadline_s(106, 100_000) == 116
    assert pace.deadline_s(107, 150_000) == 116
    assert pace.deadline_s(116, 200_000) == 126


async def test_large_body_gives_its_place_back_when_it_comes_too_slowly() -> None:
    bodies = LargeBodies(1)
    never = asyncio.Event()

    async def dribble() -> MutableMapping[str, Any]:
        await never.wait()
        return {}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"2000000")]}, dribble)
    with pytest.raises(HttpError) as caught:
        async with bodies.room() as room:
            await read_body(request, room, limit_bytes=64 * MIB, timeout_s=60, pace=Pace(1, window_s=0.01))
    assert caught.value.code == "request_timeout"
    async with asyncio.timeout(5), bodies.room() as room:
        await room.ensure(2 * MIB)


async def test_small_body_may_come_slowly_when_it_keeps_nobody_waiting() -> None:
    async with LargeBodies(1).room() as room:
        body = Body(MIB)
        assert len(await read_body(body.request, room, limit_bytes=64 * MIB, timeout_s=5, pace=Pace(10**12, window_s=0))) == MIB


async def test_body_is_read_when_somebody_else_holds_all_that_one_may() -> None:
    # Four bodies that came at the least rate held every place for two minutes, and everyone else's large requests were refused meanwhile.
    bodies = LargeBodies(4, wait_s=0.01)
    async with AsyncExitStack() as slow:
        for _ in range(2):
            await (await slow.enter_async_context(bodies.room("192.0.2.1"))).ensure(2 * MIB)
        with pytest.raises(HttpError):
            await (await slow.enter_async_context(bodies.room("192.0.2.1"))).ensure(2 * MIB)
        for name in ("192.0.2.2", ""):
            async with bodies.room(name) as room:
                await room.ensure(2 * MIB)
