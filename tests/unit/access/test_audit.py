"""The audit log: every call is in it, and a flood costs a few writes."""

from __future__ import annotations

import asyncio

import pytest

from admission import audit
from admission.access import Access
from admission.access_types import AdminAnswer, AdminKey, Verdict
from admission.audit import COUNTS_S, FOLLOWS_S, MAX_SERIES, OTHER_ACTIONS, OTHER_ADDRESSES, SERIES_LIFE_S, AuditLog
from admission.store.port import StoreUnavailableError
from tests.harness.engine import settle
from tests.unit.access.conftest import ADDRESS, Rig, a_call

WRONG = "wrong key"


def log_of(access: Access) -> AuditLog:
    """Its log, whose writes the tests bring about instead of waiting."""
    return access._log


async def flushed(rig: Rig, *calls: asyncio.Task[AdminAnswer]) -> list[AdminAnswer]:
    """Answers of calls that wait for their entries."""
    await settle()
    await log_of(rig.access).flush()
    return await asyncio.wait_for(asyncio.gather(*calls), 5)


def refused(rig: Rig, **fields: object) -> asyncio.Task[AdminAnswer]:
    """A call with a wrong key that waits for its answer."""
    return asyncio.create_task(rig.by_key(AdminKey.WRONG, bad_keys_per_minute=0, **fields))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"key": AdminKey.WRONG}, "wrong key"),
        ({"key": AdminKey.MISCONFIGURED}, "no usable admin key is configured"),
        ({"key": AdminKey.ABSENT}, "neither key nor session"),
        ({"key": AdminKey.ABSENT, "token": "made up"}, "unknown or ended session"),
    ],
)
async def test_entry_says_why_when_a_call_was_refused(rig: Rig, fields: dict[str, object], reason: str) -> None:
    await rig.access.authorize_admin(a_call(details="the last 10", **fields))
    # It is on disk, not only in memory.
    (entry,) = await rig.store.access.audit(10)
    assert (entry.details, entry.success, entry.address, entry.called_at) == (
        f"the last 10: {reason}", False, ADDRESS, rig.clock.now().utc,
    )  # fmt: skip


async def test_one_entry_counts_calls_when_they_follow_each_other(rig: Rig) -> None:
    for _ in range(57):
        await refused(rig)
    assert rig.store.writes == [(1, 0)]
    # Whoever reads sees the number at once; the disk a little later, and then once.
    assert await rig.log() == [("admin_logs", False, f"{WRONG} (57 times)")]
    assert (await rig.store.access.audit(10))[0].details == WRONG
    await log_of(rig.access).flush()
    assert rig.store.writes == [(1, 0)]
    rig.clock.advance(COUNTS_S)
    await log_of(rig.access).flush()
    await log_of(rig.access).flush()
    assert rig.store.writes == [(1, 0), (0, 1)]
    assert (await rig.store.access.audit(10))[0].details == f"{WRONG} (57 times)"


async def test_next_entry_begins_when_a_minute_went_by(rig: Rig) -> None:
    await refused(rig)
    rig.clock.advance(FOLLOWS_S - 0.001)
    await refused(rig)
    rig.clock.advance(FOLLOWS_S)
    await log_of(rig.access).flush()
    await flushed(rig, refused(rig))
    assert [details for _, _, details in await rig.log()] == [f"{WRONG} (2 times)", WRONG]


async def test_next_entry_begins_when_calls_go_on_for_an_hour(rig: Rig) -> None:
    await refused(rig)
    for _ in range(int(SERIES_LIFE_S / 50)):
        rig.clock.advance(50)
        await refused(rig)
        await log_of(rig.access).flush()
    await flushed(rig, refused(rig))
    await flushed(rig, refused(rig))
    # Of 1 + 72 calls every 50 s the last one came an hour after the first.
    assert [details for _, _, details in await rig.log()] == [f"{WRONG} (72 times)", f"{WRONG} (3 times)"]


async def test_entries_are_apart_when_action_address_or_verdict_differ(rig: Rig) -> None:
    await flushed(
        rig,
        refused(rig),
        refused(rig, action="admin_health"),
        refused(rig, address="203.0.113.8"),
        asyncio.create_task(rig.by_key(AdminKey.MISCONFIGURED)),
        refused(rig),
    )
    assert sorted(details for _, _, details in await rig.log()) == sorted(
        [f"{WRONG} (2 times)", WRONG, WRONG, "no usable admin key is configured"]
    )


async def test_calls_of_one_network_are_one_entry_when_their_addresses_differ(rig: Rig) -> None:
    await flushed(rig, *(refused(rig, address=f"2001:db8::{number}") for number in range(1, 9)))
    (entry,) = await rig.access.audit(10)
    assert (entry.address, entry.details) == ("2001:db8::1", f"{WRONG} (8 times)")


async def test_granted_calls_are_each_an_entry_when_refused_ones_flood(rig: Rig) -> None:
    for number in range(5):
        await refused(rig)
        await rig.by_key(AdminKey.RIGHT, details=str(number))
    assert [details for _, success, details in await rig.log() if success] == ["0", "1", "2", "3", "4"]


async def test_one_transaction_is_enough_when_two_thousand_addresses_call_at_once(rig: Rig) -> None:
    await flushed(rig, *(refused(rig, address=f"10.0.{number // 250}.{number % 250}") for number in range(2_000)))
    assert rig.store.writes == [(MAX_SERIES + 1, 0)]
    log = await rig.log()
    assert log.count(("admin_logs", False, WRONG)) == MAX_SERIES
    assert ("admin_logs", False, f"{WRONG} ({2_000 - MAX_SERIES} times)") in log
    assert {entry.address for entry in await rig.access.audit(1000) if "times" in entry.details} == {OTHER_ADDRESSES}


async def test_entries_are_bounded_when_actions_are_made_up_too(rig: Rig) -> None:
    # Bridges send names of their own; an admission does not rely on it.
    for first in range(0, 1000, 500):
        calls = (refused(rig, address=f"10.0.0.{number % 250}", action="a" + "_" * number) for number in range(first, first + 500))
        await flushed(rig, *calls)
    entries = await rig.access.audit(1000)
    assert len(entries) == 2 * MAX_SERIES + 1
    assert [entry.details for entry in entries if entry.action == OTHER_ACTIONS] == [f"{WRONG} (800 times)"]


async def test_others_have_entries_of_their_own_again_when_a_flood_is_over(rig: Rig) -> None:
    await flushed(rig, *(refused(rig, address=f"10.0.0.{number}") for number in range(200)))
    rig.clock.advance(FOLLOWS_S)
    await log_of(rig.access).flush()
    await flushed(rig, refused(rig, address="203.0.113.9"))
    assert (await rig.access.audit(1))[0].address == "203.0.113.9"


async def test_numbers_are_on_disk_when_access_closes(rig: Rig) -> None:
    for _ in range(4):
        await refused(rig)
    await rig.access.close()
    assert (await rig.store.access.audit(10))[0].details == f"{WRONG} (4 times)"
    await rig.access.close()
    with pytest.raises(StoreUnavailableError):
        await rig.by_key(AdminKey.WRONG, action="another")


async def test_call_is_told_so_and_written_later_when_the_store_is_away(rig: Rig) -> None:
    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await refused(rig)
    assert (rig.told.not_written, await rig.log()) == (1, [])
    rig.store.fail_writes = False
    await flushed(rig, refused(rig))
    assert await rig.log() == [("admin_logs", False, WRONG)]


async def test_no_number_is_lost_when_the_store_is_away_for_a_while(rig: Rig) -> None:
    await refused(rig)
    rig.store.fail_writes = True
    await refused(rig)
    rig.clock.advance(10 * FOLLOWS_S)
    await log_of(rig.access).flush()
    await refused(rig)
    rig.store.fail_writes = False
    await log_of(rig.access).flush()
    assert (await rig.store.access.audit(10))[0].details == f"{WRONG} (3 times)"


async def test_entry_is_written_when_its_caller_went_away(rig: Rig) -> None:
    call = refused(rig)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await settle()
    assert [details for _, _, details in await rig.log()] == [WRONG]


async def test_nothing_is_kept_when_the_last_series_is_over(rig: Rig) -> None:
    await refused(rig)
    await refused(rig)
    rig.clock.advance(FOLLOWS_S)
    # The number is written first.
    await log_of(rig.access).flush()
    await log_of(rig.access).flush()
    assert (rig.store.writes, log_of(rig.access)._series) == ([(1, 0), (0, 1)], {})


async def test_observer_is_told_every_verdict_when_entries_are_fewer(rig: Rig) -> None:
    for _ in range(3):
        await refused(rig)
    await rig.by_key(AdminKey.RIGHT)
    assert rig.told.verdicts == [Verdict.KEY_INVALID] * 3 + [Verdict.GRANTED]


async def test_task_writes_numbers_and_ends_by_itself_when_time_goes_by(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAUSE_S", 0.01)
    monkeypatch.setattr(audit, "COUNTS_S", 0.02)
    await refused(rig)
    await refused(rig)
    writing = log_of(rig.access)._writing
    assert writing is not None
    rig.clock.advance(FOLLOWS_S)
    await asyncio.wait_for(writing, 10)
    assert (await rig.store.access.audit(10))[0].details == f"{WRONG} (2 times)"
    # Another begins with the next call.
    await asyncio.wait_for(refused(rig), 10)
    assert len(await rig.store.access.audit(10)) == 2


async def test_waiters_are_told_when_the_log_closes_on_a_store_that_hangs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> tuple[int, ...]:
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(audit, "_CLOSING_S", 0.01)
    monkeypatch.setattr(rig.store.access, "write_audit", hang)
    call = refused(rig)
    await settle()
    await asyncio.wait_for(rig.access.close(), 10)
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(call, 10)
