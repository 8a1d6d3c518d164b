"""Who is let in, and what happens to those who wait when the doors close."""

from __future__ import annotations

import asyncio

import pytest

from admission.service.doors import Doors
from runtime.errors import ServiceError


def test_nobody_is_let_in_when_the_state_is_not_restored() -> None:
    with pytest.raises(ServiceError, match="starting"):
        Doors().check()


def test_nobody_is_let_in_when_admission_stops() -> None:
    doors = Doors()
    doors.open()
    doors.check()

    doors.close()

    with pytest.raises(ServiceError, match="stopping"):
        doors.check()


async def test_answer_passes_when_it_comes_before_the_doors_close() -> None:
    async def answer() -> int:
        return 7

    assert await Doors().hold(answer()) == 7


async def test_answer_passes_when_it_comes_in_spite_of_being_cancelled() -> None:
    """What was accepted in the last instant is told, not refused."""
    doors, begun = Doors(), asyncio.Event()

    async def answer() -> int:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 7
        raise AssertionError

    held = asyncio.create_task(doors.hold(answer()))
    await begun.wait()
    doors.close()

    assert await held == 7


async def test_wait_has_ended_when_the_doors_closed() -> None:
    doors, begun, ended = Doors(), asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    held = asyncio.create_task(doors.hold(wait()))
    await begun.wait()
    doors.close()

    with pytest.raises(ServiceError, match="service_unavailable"):
        await held
    assert ended.is_set()


async def test_wait_has_ended_when_its_caller_is_cancelled() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    held = asyncio.create_task(Doors().hold(wait()))
    await begun.wait()
    held.cancel()

    with pytest.raises(asyncio.CancelledError):
        await held
    assert ended.is_set()


async def test_wait_is_not_begun_when_the_doors_are_closed_already() -> None:
    doors, begun = Doors(), asyncio.Event()
    doors.close()

    async def wait() -> None:
        begun.set()

    with pytest.raises(ServiceError, match="stopping"):
        await doors.hold(wait())
    assert not begun.is_set()


async def test_caller_goes_on_unharmed_when_the_doors_closed_on_it() -> None:
    """What ends the wait must not end what the caller does next: it has an answer to send."""
    doors, begun = Doors(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def caller() -> str:
        with pytest.raises(ServiceError):
            await doors.hold(wait())
        await asyncio.sleep(0)
        return "told"

    calling = asyncio.create_task(caller())
    await begun.wait()
    doors.close()
    doors.close()

    assert await calling == "told"
    assert calling.cancelling() == 0


async def test_caller_ends_as_cancelled_when_it_left_and_the_doors_closed_at_once() -> None:
    doors, begun = Doors(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    held = asyncio.create_task(doors.hold(wait()))
    await begun.wait()
    held.cancel()
    doors.close()

    with pytest.raises(asyncio.CancelledError):
        await held
