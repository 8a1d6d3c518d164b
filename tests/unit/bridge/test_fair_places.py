"""Few places, many who want them: nobody is kept out by another's many requests."""

from __future__ import annotations

import asyncio
import random
import threading
from functools import partial

from http_bridge.fair_places import FairPlaces
from http_bridge.fair_threads import FairThreads


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_names_take_turns_when_one_of_them_brings_much() -> None:
    # One session's 21 large pictures in each of its requests kept everyone else's waiting for minutes.
    served: list[str] = []
    places = FairPlaces(1)

    async def use(name: str) -> None:
        await places.take(name)
        served.append(name)

    users = [asyncio.create_task(use(name)) for name in ("much", "much", "much", "much", "little", "other")]
    await _turns()
    while len(served) < len(users):
        places.give_back(served[-1])
        await _turns()
    assert served == ["much", "much", "little", "other", "much", "much"]


async def test_name_has_no_more_than_its_share_when_places_are_free() -> None:
    places = FairPlaces(4, share=2)
    taken = [asyncio.create_task(places.take("slow")) for _ in range(4)]
    await _turns()
    assert [task.done() for task in taken] == [True, True, False, False]
    for name in ("other", ""):
        async with asyncio.timeout(1):
            await places.take(name)
    places.give_back("slow")
    await _turns()
    assert [task.done() for task in taken] == [True, True, True, False]
    taken[3].cancel()
    await asyncio.gather(*taken, return_exceptions=True)


async def test_no_place_is_lost_when_those_who_wait_leave_at_any_moment() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    held: list[str] = []
    places = FairPlaces(3, share=2)

    async def use(name: str) -> None:
        await places.take(name)
        try:
            held.append(name)
            assert len(held) <= 3
            assert held.count(name) <= 2
            await asyncio.sleep(0)
        finally:
            held.remove(name)
            places.give_back(name)

    running: list[asyncio.Task[None]] = []
    for _ in range(2000):
        running.append(asyncio.create_task(use(chance.choice("abc"))))
        if chance.random() < 0.5:
            chance.choice(running).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    done = await asyncio.gather(*running, return_exceptions=True)
    assert not [one for one in done if isinstance(one, Exception)]
    async with asyncio.timeout(1):
        for name in "abc":
            await places.take(name)


async def test_one_s_work_does_not_wait_for_all_of_another_s() -> None:
    done: list[str] = []
    threads, may_go = FairThreads(1), threading.Event()

    def piece(name: str) -> str:
        may_go.wait(10)
        done.append(name)
        return name

    much = asyncio.create_task(threads.all("much", [partial(piece, f"much {number}") for number in range(5)]))
    await _turns()
    little = asyncio.create_task(threads.all("little", [partial(piece, "little")]))
    await _turns()
    may_go.set()
    try:
        assert await little == ["little"]
        assert await much == [f"much {number}" for number in range(5)]
        assert done.index("little") <= 2
    finally:
        threads.close()


async def test_work_that_has_no_turn_yet_is_left_when_its_caller_leaves() -> None:
    begun: list[int] = []
    threads, may_go, has_begun = FairThreads(1), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def piece(number: int) -> int:
        begun.append(number)
        loop.call_soon_threadsafe(has_begun.set)
        may_go.wait(10)
        return number

    leaving = asyncio.create_task(threads.all("one", [partial(piece, number) for number in range(5)]))
    await has_begun.wait()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    may_go.set()
    try:
        assert await threads.all("other", [partial(piece, 9)]) == [9]
        assert begun == [0, 9]
    finally:
        threads.close()
