"""Head and body of a reply leave together, and a head without a body does not wait for one."""

from __future__ import annotations

import asyncio
from typing import cast

from http_bridge.head_writes import HeadWithBody


class Wire:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def reply() -> tuple[HeadWithBody, Wire]:
    """One that begins."""
    wire = Wire()
    return HeadWithBody(cast("asyncio.Transport", wire), asyncio.get_running_loop()), wire


async def test_head_and_body_are_one_write_when_they_come_in_one_turn() -> None:
    writes, wire = reply()
    writes.write(b"head ")
    writes.write(b"body ")
    writes.write(b"more")
    await asyncio.sleep(0)
    assert wire.written == [b"head body ", b"more"]


async def test_head_goes_alone_when_the_body_takes_its_time() -> None:
    writes, wire = reply()
    writes.write(b"head")
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [b"head"]
    writes.write(b"body")
    assert wire.written == [b"head", b"body"]


async def test_empty_body_lets_the_head_go() -> None:
    writes, wire = reply()
    writes.write(b"head")
    writes.write(b"")
    assert wire.written == [b"head"]


async def test_head_is_written_before_the_connection_closes() -> None:
    writes, wire = reply()
    writes.write(b"head")
    writes.close()
    await asyncio.sleep(0)
    assert (wire.written, wire.is_closed, writes.is_closing()) == ([b"head"], True, True)


async def test_nothing_is_written_when_the_connection_ended_meanwhile() -> None:
    writes, wire = reply()
    writes.write(b"head")
    wire.close()
    await asyncio.sleep(0)
    assert wire.written == []
