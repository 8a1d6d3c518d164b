"""Sessions that come together are written together; every caller is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from admission.session_writer import SessionWriter
from admission.store.access_port import Session
from admission.store.port import StoreUnavailableError
from tests.harness.engine import settle
from tests.harness.store import FailingStore


class SlowStore(FailingStore):
    """Writes wait at a gate; each is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.groups: list[list[str]] = []
        add = self.access.add_sessions

        async def slow(sessions: Sequence[Session]) -> None:
            self.groups.append([session.session_id for session in sessions])
            await self.gate.wait()
            await add(sessions)

        self.access.add_sessions = slow  # type: ignore[method-assign]


def a_session(name: str) -> Session:
    """Of this name."""
    return Session(session_id=name, token_sha256=f"hash-{name}", expires_at=datetime(2099, 1, 1, tzinfo=UTC))


async def test_those_that_come_meanwhile_go_together_when_one_is_being_written() -> None:
    store = SlowStore()
    await store.open()
    writer = SessionWriter(store.access)
    calls = []
    for number in range(301):
        calls.append(asyncio.create_task(writer.add(a_session(str(number)))))
        await asyncio.sleep(0)
    await settle()
    assert store.groups == [["0"]]
    store.gate.set()
    await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert [len(group) for group in store.groups] == [1, 256, 44]
    assert await store.access.session("hash-300") == a_session("300")
    await writer.close()


async def test_every_caller_of_a_group_is_told_when_it_cannot_be_stored() -> None:
    store = SlowStore()
    await store.open()
    store.gate.set()
    store.fail_writes = True
    writer = SessionWriter(store.access)
    answers = await asyncio.gather(*(writer.add(a_session(name)) for name in "abc"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 3
    store.fail_writes = False
    await writer.add(a_session("d"))
    assert await store.access.session("hash-d") is not None


async def test_others_are_stored_when_a_caller_goes_away() -> None:
    store = SlowStore()
    await store.open()
    writer = SessionWriter(store.access)
    calls = [asyncio.create_task(writer.add(a_session("a")))]
    await settle()
    calls += [asyncio.create_task(writer.add(a_session(name))) for name in "bc"]
    await settle()
    calls[0].cancel()
    calls[1].cancel()
    await settle()
    store.gate.set()
    await asyncio.wait_for(calls[2], 5)
    # The first was on its way; of the second nothing is needed.
    assert [await store.access.session(f"hash-{name}") is not None for name in "abc"] == [True, False, True]


async def test_waiters_are_told_when_the_writer_closes() -> None:
    store = SlowStore()
    await store.open()
    writer = SessionWriter(store.access)
    calls = [asyncio.create_task(writer.add(a_session(name))) for name in "ab"]
    await settle()
    await writer.close()
    await writer.close()
    for call in calls:
        with pytest.raises(StoreUnavailableError):
            await asyncio.wait_for(call, 5)
