"""What every store promises of sessions and of the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from admission.store.access_port import AccessStore, AdminChange, AdminSession, AuditEntry, Session
from admission.store.memory import MemoryStore
from admission.store.port import StoreUnavailableError
from admission.store.sql import SqlStore
from tests.harness.clock import FakeClock
from tests.harness.tasks import at

DAY_S = 24 * 60 * 60


@pytest.fixture
def access(store: MemoryStore | SqlStore) -> AccessStore:
    """The part of the open, empty store."""
    return store.access


def make_session(name: str, expires_at: datetime) -> Session:
    """A generation session with its own token."""
    return Session(session_id=f"id-{name}", token_sha256=f"hash-{name}", expires_at=expires_at)


def make_admin(name: str = "a", *, used_s: float = 0.0, life_s: float = 60.0) -> AdminSession:
    """An admin session that was opened at 0 s and used last at `used_s`."""
    return AdminSession(
        session_id=f"id-{name}",
        token_sha256=f"hash-{name}",
        created_at=at(0),
        last_activity_at=at(used_s),
        expires_at=at(used_s + life_s),
    )


def make_entry(name: str = "a", *, called_s: float = 0.0, success: bool = True) -> AuditEntry:
    """An entry without its id."""
    return AuditEntry(called_at=at(called_s), address="203.0.113.7", action="admin_logs", details=name, success=success)


async def put(access: AccessStore, session: AdminSession, entry: AuditEntry | None = None) -> None:
    """Stores the session as it is here."""
    await access.change_admin_session(session.token_sha256, lambda _: AdminChange(session=session, entry=entry))


async def logged(access: AccessStore) -> list[str]:
    """Details of all entries, oldest first."""
    return [entry.details for entry in reversed(await access.audit(1000))]


# Generation sessions


async def test_a_session_is_found_by_its_token_when_it_has_ended_too(access: AccessStore) -> None:
    ended = make_session("ended", at(-60) + timedelta(microseconds=1))
    await access.add_sessions([ended, make_session("live", at(60))])
    assert await access.session("hash-ended") == ended
    assert await access.session("id-ended") is None


async def test_nothing_happens_when_no_session_is_added(access: AccessStore) -> None:
    await access.add_sessions([])
    assert await access.session("hash-a") is None


async def test_a_session_is_replaced_when_its_token_comes_again(access: AccessStore) -> None:
    # A caller that was told "unavailable" may try again, though the first try reached the disk.
    await access.add_sessions([make_session("a", at(60))])
    await access.add_sessions([make_session("a", at(70)), make_session("a", at(90))])
    assert await access.session("hash-a") == make_session("a", at(90))


async def test_only_old_sessions_are_removed_when_one_is_added(access: AccessStore, clock: FakeClock) -> None:
    await access.add_sessions([make_session("old", at(0)), make_session("edge", at(1))])
    clock.advance(DAY_S + 1)
    await access.add_sessions([make_session("new", at(2 * DAY_S))])
    assert await access.session("hash-old") is None
    assert await access.session("hash-edge") == make_session("edge", at(1))
    assert await access.session("hash-new") == make_session("new", at(2 * DAY_S))


# Admin sessions


async def test_an_admin_session_is_found_by_its_token_when_it_was_stored(access: AccessStore) -> None:
    session = replace(make_admin(), last_activity_at=at(0) + timedelta(microseconds=1))
    await put(access, session)
    assert await access.admin_session("hash-a") == session
    assert await access.admin_session("id-a") is None
    # They are no generation sessions.
    assert await access.session("hash-a") is None


async def test_a_time_is_the_same_when_it_came_in_another_zone(access: AccessStore) -> None:
    zone = timezone(timedelta(hours=2))
    session = make_admin()
    await put(access, replace(session, created_at=session.created_at.astimezone(zone), expires_at=session.expires_at.astimezone(zone)))
    found = await access.admin_session("hash-a")
    assert found == session
    assert found.expires_at.tzinfo is UTC


async def test_the_change_sees_what_is_stored_when_a_session_is_changed(access: AccessStore) -> None:
    seen: list[AdminSession | None] = []

    def use(session: AdminSession | None) -> AdminChange:
        seen.append(session)
        return AdminChange(session=make_admin(used_s=30), entry=make_entry("used", called_s=30))

    await put(access, make_admin(), make_entry("opened"))
    change = await access.change_admin_session("hash-a", use)
    assert (seen, change.session) == ([make_admin()], make_admin(used_s=30))
    assert await access.admin_session("hash-a") == make_admin(used_s=30)
    assert await logged(access) == ["opened", "used"]


async def test_a_session_is_gone_when_the_change_has_none(access: AccessStore) -> None:
    await put(access, make_admin())
    await put(access, make_admin("b"))
    await access.change_admin_session("hash-a", lambda _: AdminChange(session=None, entry=make_entry("closed")))
    await access.change_admin_session("hash-none", lambda _: AdminChange(session=None))
    assert (await access.admin_session("hash-a"), await access.admin_session("hash-b")) == (None, make_admin("b"))
    assert await logged(access) == ["closed"]


@pytest.mark.parametrize(
    "wrong",
    [
        AdminChange(session=make_admin("b"), entry=make_entry()),
        AdminChange(session=make_admin(used_s=9), entry=replace(make_entry(), called_at=datetime(2026, 1, 1))),  # noqa: DTZ001 - it is wrong
    ],
    ids=["another token", "a naive time"],
)
async def test_nothing_is_stored_when_part_of_a_change_is_wrong(access: AccessStore, wrong: AdminChange) -> None:
    await put(access, make_admin())
    with pytest.raises(ValueError, match=r"token|time zone"):
        await access.change_admin_session("hash-a", lambda _: wrong)
    assert await access.admin_session("hash-a") == make_admin()
    assert await logged(access) == []


async def test_nothing_is_stored_when_the_change_raises(access: AccessStore) -> None:
    def fail(_: AdminSession | None) -> AdminChange:
        raise LookupError

    await put(access, make_admin())
    with pytest.raises(LookupError):
        await access.change_admin_session("hash-a", fail)
    assert await access.admin_session("hash-a") == make_admin()


async def test_no_use_is_lost_when_many_come_at_once(access: AccessStore) -> None:
    def use(session: AdminSession | None) -> AdminChange:
        assert session is not None
        longer = replace(session, expires_at=session.expires_at + timedelta(seconds=1))
        return AdminChange(session=longer, entry=make_entry())

    await put(access, make_admin())
    await asyncio.gather(*(access.change_admin_session("hash-a", use) for _ in range(20)))
    found = await access.admin_session("hash-a")
    assert found is not None
    assert found.expires_at == at(60 + 20)
    assert len(await access.audit(100)) == 20


async def test_only_long_ended_admin_sessions_are_removed_when_one_is_opened(access: AccessStore, clock: FakeClock) -> None:
    await put(access, make_admin("old", life_s=0))
    await put(access, make_admin("edge", life_s=1))
    clock.advance(DAY_S + 1)
    # A use removes none.
    await put(access, make_admin("edge", life_s=1))
    assert await access.admin_session("hash-old") is not None
    await put(access, make_admin("new", used_s=DAY_S))
    assert await access.admin_session("hash-old") is None
    assert await access.admin_session("hash-edge") is not None
    assert await access.admin_session("hash-new") is not None


# Audit


async def test_the_newest_entries_come_first_when_the_log_is_read(access: AccessStore) -> None:
    ids = await access.write_audit([make_entry("a", called_s=5), make_entry("b", success=False)], {})
    ids += await access.write_audit([make_entry("c")], {})
    assert list(ids) == sorted(set(ids))
    assert all(entry_id > 0 for entry_id in ids)
    assert await access.audit(2) == (
        replace(make_entry("c"), entry_id=ids[2]),
        replace(make_entry("b", success=False), entry_id=ids[1]),
    )


async def test_details_are_replaced_when_their_entry_is_there(access: AccessStore) -> None:
    first, second = await access.write_audit([make_entry("a"), make_entry("b")], {})
    assert await access.write_audit([], {second: "b (2 times)", second + 1000: "never there"}) == ()
    (third,) = await access.write_audit([make_entry("c")], {first: "ä, 東京"})
    assert third > second
    assert await logged(access) == ["ä, 東京", "b (2 times)", "c"]


async def test_nothing_is_written_when_one_entry_is_wrong(access: AccessStore) -> None:
    (first,) = await access.write_audit([make_entry("a")], {})
    naive = replace(make_entry("c"), called_at=datetime(2026, 1, 1))  # noqa: DTZ001 - it is wrong
    with pytest.raises(ValueError, match="time zone"):
        await access.write_audit([make_entry("b"), naive], {first: "changed"})
    assert await logged(access) == ["a"]


async def test_a_hundred_entries_have_their_ids_in_order_when_they_are_written_at_once(access: AccessStore) -> None:
    ids = await access.write_audit([make_entry(str(number)) for number in range(300)], {})
    assert list(ids) == sorted(set(ids))
    by_id = {entry.entry_id: entry.details for entry in await access.audit(1000)}
    assert [by_id[entry_id] for entry_id in ids] == [str(number) for number in range(300)]


async def test_the_log_cannot_be_read_when_no_entry_is_asked_for(access: AccessStore) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        await access.audit(0)


async def test_old_entries_go_when_the_log_is_pruned(access: AccessStore) -> None:
    await access.write_audit([make_entry(str(second), called_s=second) for second in range(5)], {})
    assert await access.prune_audit(at(3), keep=100, limit=2) == 2
    assert await logged(access) == ["2", "3", "4"]
    assert await access.prune_audit(at(3), keep=100, limit=2) == 1
    assert await access.prune_audit(at(3), keep=100, limit=2) == 0
    assert await access.prune_audit(None, keep=100, limit=2) == 0
    assert await logged(access) == ["3", "4"]


async def test_the_newest_of_each_kind_stay_when_there_are_too_many(access: AccessStore) -> None:
    await access.write_audit([make_entry(f"let in {number}") for number in range(4)], {})
    await access.write_audit([make_entry(f"refused {number}", success=False) for number in range(6)], {})
    removed = []
    while count := await access.prune_audit(None, keep=3, limit=2):
        removed.append(count)
    # Of the first kind one is too many, of the second three.
    assert removed == [3, 1]
    assert await logged(access) == ["let in 1", "let in 2", "let in 3", "refused 3", "refused 4", "refused 5"]


async def test_no_id_is_given_twice_when_every_entry_was_removed(access: AccessStore) -> None:
    ids = await access.write_audit([make_entry("a"), make_entry("b")], {})
    await access.prune_audit(at(60), keep=0, limit=10)
    assert await logged(access) == []
    (next_id,) = await access.write_audit([make_entry("c")], {ids[0]: "stays gone"})
    assert next_id > max(ids)
    assert await logged(access) == ["c"]


# Life


CALLS: dict[str, Callable[[AccessStore], Awaitable[object]]] = {
    "add_sessions": lambda access: access.add_sessions([make_session("a", at(0))]),
    "session": lambda access: access.session("hash-a"),
    "admin_session": lambda access: access.admin_session("hash-a"),
    "change_admin_session": lambda access: access.change_admin_session("hash-a", lambda _: AdminChange(session=None)),
    "write_audit": lambda access: access.write_audit([make_entry()], {}),
    "audit": lambda access: access.audit(1),
    "prune_audit": lambda access: access.prune_audit(None, keep=1, limit=1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_every_call_is_refused_when_the_store_is_closed(
    store: MemoryStore | SqlStore, call: Callable[[AccessStore], Awaitable[object]]
) -> None:
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await call(store.access)


async def test_everything_is_there_when_the_store_is_opened_again(store: MemoryStore | SqlStore) -> None:
    await store.access.add_sessions([make_session("a", at(60))])
    await put(store.access, make_admin(), make_entry("opened"))
    await put(store.access, make_admin("b"))
    await store.access.change_admin_session("hash-b", lambda _: AdminChange(session=None))
    await store.close()
    await store.open()
    assert await store.access.session("hash-a") == make_session("a", at(60))
    assert await store.access.admin_session("hash-a") == make_admin()
    assert await store.access.admin_session("hash-b") is None
    assert await logged(store.access) == ["opened"]
