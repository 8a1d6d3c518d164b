"""Whoever waits for a client learns that the client left or the bridge stops, and nothing else is taken for that."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.requests import Request

from http_bridge.errors import HttpError
from http_bridge.lookout import Lookout


class Wait:
    """A wait with a lookout, as a route has it."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.stopping = asyncio.Event()
        self.answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ignores_cancel = False
        self.task = asyncio.create_task(self._run())

    async def _receive(self) -> MutableMapping[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _submission(self) -> str:
        try:
            return await self.answer
        except asyncio.CancelledError:
            if self.ignores_cancel:
                return "came in spite of it"
            raise

    async def _run(self) -> str:
        request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, self._receive)
        lookout = Lookout(request, self.stopping, after_s=0.0)
        try:
            return await self._submission()
        except asyncio.CancelledError:
            lookout.raise_reason()
            raise
        finally:
            await lookout.close()

    async def settle(self) -> None:
        """Lets everything run that can."""
        for _ in range(10):
            await asyncio.sleep(0.001)


def _watching() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("watch-")]


@pytest.mark.parametrize(("reason", "code"), [("gone", "client_gone"), ("stopping", "service_unavailable")])
async def test_wait_ends_with_the_reason(reason: str, code: str) -> None:
    wait = Wait()
    await wait.settle()
    getattr(wait, reason).set()
    with pytest.raises(HttpError) as caught:
        await asyncio.wait_for(wait.task, 5)
    assert (caught.value.code, wait.answer.cancelled(), wait.task.cancelling()) == (code, True, 0)
    assert _watching() == []


async def test_answer_comes_when_nobody_left() -> None:
    wait = Wait()
    await wait.settle()
    assert len(_watching()) == 2
    wait.answer.set_result("answer")
    assert await asyncio.wait_for(wait.task, 5) == "answer"
    assert _watching() == []


async def test_answer_wins_when_it_comes_in_spite_of_the_reason() -> None:
    wait = Wait()
    wait.ignores_cancel = True
    await wait.settle()
    wait.gone.set()
    assert await asyncio.wait_for(wait.task, 5) == "came in spite of it"
    assert wait.task.cancelling() == 0


async def test_cancel_of_somebody_else_stays_a_cancel() -> None:
    wait = Wait()
    await wait.settle()
    wait.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(wait.task, 5)
    assert _watching() == []


async def test_cancel_of_somebody_else_wins_when_the_client_leaves_too() -> None:
    wait = Wait()
    await wait.settle()
    wait.gone.set()
    wait.stopping.set()
    wait.task.cancel()
    with pytest.raises((asyncio.CancelledError, HttpError)):
        await asyncio.wait_for(wait.task, 5)
    assert _watching() == []
