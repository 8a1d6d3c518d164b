"""AccessService over a real channel, on a store in memory: what goes over the wire, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from warmlane.admission.v1 import access_service_pb2 as pb
from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceStub

from tests.unit.service.calls import error_of
from tests.unit.service.conftest import Stack

if TYPE_CHECKING:
    from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceAsyncStub

DAY_S = 24 * 3600
ADDRESS = "203.0.113.7"


def stub(stack: Stack) -> AccessServiceAsyncStub:
    """What bridges call."""
    return AccessServiceStub(stack.channel)


def a_rate(kind: pb.RateKind.ValueType = pb.RATE_KIND_NEW_SESSION, subject: str = ADDRESS, per_minute: int = 2) -> pb.Rate:
    """Two new sessions a minute, but for what is given."""
    return pb.Rate(kind=kind, subject=subject, per_minute=per_minute)


def a_call(**fields: Any) -> pb.AdminCall:
    """A good call with the right key, but for the given fields."""
    values: dict[str, Any] = {
        "action": "admin_logs",
        "address": ADDRESS,
        "key": pb.ADMIN_KEY_RIGHT,
        "idle_timeout": Duration(seconds=3600),
        "bad_keys_per_minute": 2,
    }
    return pb.AdminCall(**(values | fields))


async def check(stack: Stack, token: str, generations_per_minute: int = 0) -> pb.CheckSessionResponse:
    """What a token is worth."""
    request = pb.CheckSessionRequest(token=token, generations_per_minute=generations_per_minute)
    return await stub(stack).CheckSession(request, timeout=5)


async def create(stack: Stack, rate: pb.Rate | None = None) -> pb.CreateSessionResponse:
    """A new session."""
    return await stub(stack).CreateSession(pb.CreateSessionRequest(rate=rate), timeout=5)


async def audit(stack: Stack, limit: int = 0) -> list[pb.AuditEntry]:
    """The log, newest first."""
    return list((await stub(stack).ListAudit(pb.ListAuditRequest(limit=limit), timeout=5)).entries)


# Generation sessions


async def test_only_the_hash_of_a_token_is_kept_when_a_session_is_opened(stack: Stack) -> None:
    opened = await create(stack)

    session = await stack.store.access.session(hashlib.sha256(opened.token.encode()).hexdigest())
    assert session is not None
    assert opened.token not in repr(session)
    assert len(opened.token) >= 43  # 256 bits in base64
    assert session.expires_at == stack.clock.now().utc + timedelta(hours=24)
    assert opened.expires_at.ToDatetime() == session.expires_at.replace(tzinfo=None)


async def test_session_is_active_when_its_token_comes_back(stack: Stack) -> None:
    opened = await create(stack)
    stack.clock.advance(DAY_S - 0.001)

    answer = await check(stack, opened.token)

    assert answer.state == pb.SESSION_STATE_ACTIVE
    assert len(answer.session_id) == 32
    assert answer.session_id not in opened.token
    assert answer.expires_at == opened.expires_at


async def test_session_is_expired_when_its_day_is_over(stack: Stack) -> None:
    opened = await create(stack)
    stack.clock.advance(DAY_S)

    answer = await check(stack, opened.token, generations_per_minute=1)

    assert (answer.state, answer.session_id) == (pb.SESSION_STATE_EXPIRED, "")
    assert answer.expires_at == opened.expires_at


@pytest.mark.parametrize("token", ["", "made up", "x" * 100_000, "東京\0"])
async def test_session_is_invalid_when_nobody_knows_the_token(stack: Stack, token: str) -> None:
    answer = await check(stack, token, generations_per_minute=1)

    assert (answer.state, answer.HasField("expires_at")) == (pb.SESSION_STATE_INVALID, False)


async def test_no_session_is_opened_when_it_cannot_be_stored(stack: Stack) -> None:
    stack.store.fail_writes = True
    assert (await error_of(create(stack))).code == "service_unavailable"
    stack.store.fail_writes = False
    assert (await create(stack)).token


# Rates


async def test_refusal_says_which_rate_and_when_again_when_it_is_used_up(stack: Stack) -> None:
    for _ in range(2):
        await create(stack, a_rate())
        stack.clock.advance(10)
    refusal = await error_of(create(stack, a_rate()))
    assert (refusal.code, refusal.metadata) == ("rate_limited", {"kind": "new_session", "per_minute": "2"})
    # The first was 20 s ago.
    assert refusal.retry_after_s == 40
    stack.clock.advance(39.5)
    assert (await error_of(create(stack, a_rate()))).retry_after_s == 1
    stack.clock.advance(0.5)
    await create(stack, a_rate())


async def test_generations_are_counted_by_session_when_it_is_active(stack: Stack) -> None:
    first, second = (await create(stack)).token, (await create(stack)).token
    assert (await check(stack, first, 1)).state == pb.SESSION_STATE_ACTIVE
    assert (await error_of(check(stack, first, 1))).metadata == {"kind": "generation", "per_minute": "1"}
    # Other calls of it go on, and others' generations.
    assert (await check(stack, first)).state == pb.SESSION_STATE_ACTIVE
    assert (await check(stack, second, 1)).state == pb.SESSION_STATE_ACTIVE
    # The same window, whoever counts.
    session_id = (await check(stack, second)).session_id
    count = pb.CountEventRequest(rate=a_rate(pb.RATE_KIND_GENERATION, session_id, 1))
    assert (await error_of(stub(stack).CountEvent(count, timeout=5))).code == "rate_limited"


async def test_kinds_count_apart_when_their_subject_is_one(stack: Stack) -> None:
    for kind in (pb.RATE_KIND_NEW_SESSION, pb.RATE_KIND_BAD_KEY):
        request = pb.CountEventRequest(rate=a_rate(kind, per_minute=1))
        await stub(stack).CountEvent(request, timeout=5)
        assert (await error_of(stub(stack).CountEvent(request, timeout=5))).code == "rate_limited"
    # Wrong API keys do not count as wrong admin keys.
    answer = await stub(stack).AuthorizeAdmin(pb.AuthorizeAdminRequest(call=a_call(bad_keys_per_minute=1)), timeout=5)
    assert answer.verdict == pb.ADMIN_VERDICT_GRANTED


# Admin calls


async def test_admin_session_goes_its_way_when_the_right_key_opened_it(stack: Stack) -> None:
    opened = await stub(stack).OpenAdminSession(pb.OpenAdminSessionRequest(call=a_call(action="open", details="what")), timeout=5)
    assert (opened.verdict, len(opened.token), opened.HasField("retry_after")) == (pb.ADMIN_VERDICT_GRANTED, 43, False)
    stack.clock.advance(60)
    by_token = a_call(action="use", key=pb.ADMIN_KEY_ABSENT, token=opened.token)
    used = await stub(stack).AuthorizeAdmin(pb.AuthorizeAdminRequest(call=by_token), timeout=5)
    assert used.verdict == pb.ADMIN_VERDICT_GRANTED
    assert used.last_activity_at.ToDatetime() == stack.clock.now().utc.replace(tzinfo=None)
    closing = pb.CloseAdminSessionRequest(call=a_call(action="close", key=pb.ADMIN_KEY_UNSPECIFIED, token=opened.token))
    assert (await stub(stack).CloseAdminSession(closing, timeout=5)).verdict == pb.ADMIN_VERDICT_GRANTED
    assert (await stub(stack).CloseAdminSession(closing, timeout=5)).verdict == pb.ADMIN_VERDICT_SESSION_INVALID

    entries = await audit(stack)
    assert [(entry.action, entry.success, entry.details) for entry in entries] == [
        ("close", False, "unknown or ended session"),
        ("close", True, ""),
        ("use", True, ""),
        ("open", True, "what"),
    ]
    assert {entry.address for entry in entries} == {ADDRESS}
    assert entries[-1].at.ToDatetime() == entries[0].at.ToDatetime() - timedelta(seconds=60)
    assert [entry.id for entry in entries] == sorted((entry.id for entry in entries), reverse=True)


async def test_wrong_keys_lock_an_address_out_when_they_are_too_many(stack: Stack) -> None:
    wrong = pb.AuthorizeAdminRequest(call=a_call(key=pb.ADMIN_KEY_WRONG))
    for _ in range(2):
        assert (await stub(stack).AuthorizeAdmin(wrong, timeout=5)).verdict == pb.ADMIN_VERDICT_KEY_INVALID
    for refused in (
        await stub(stack).AuthorizeAdmin(wrong, timeout=5),
        await stub(stack).AuthorizeAdmin(pb.AuthorizeAdminRequest(call=a_call()), timeout=5),
        await stub(stack).OpenAdminSession(pb.OpenAdminSessionRequest(call=a_call()), timeout=5),
        await stub(stack).CloseAdminSession(pb.CloseAdminSessionRequest(call=a_call()), timeout=5),
    ):
        assert (refused.verdict, refused.retry_after.seconds) == (pb.ADMIN_VERDICT_RATE_LIMITED, 60)


async def test_newest_entries_are_given_when_only_some_are_asked_for(stack: Stack) -> None:
    for number in range(102):
        call = a_call(details=str(number))
        await stub(stack).AuthorizeAdmin(pb.AuthorizeAdminRequest(call=call), timeout=5)
    assert [entry.details for entry in await audit(stack, 2)] == ["101", "100"]
    assert len(await audit(stack)) == 100
    assert len(await audit(stack, 1000)) == 102


async def test_control_characters_are_replaced_when_details_have_some(stack: Stack) -> None:
    # A server's database refuses the first of them: the call would be lost.
    await stub(stack).AuthorizeAdmin(pb.AuthorizeAdminRequest(call=a_call(details="a\0b\x1b[2J 東京")), timeout=5)
    assert (await audit(stack))[0].details == "a�b�[2J 東京"


# What is refused


def _authorize(**fields: Any) -> Callable[[Stack], Awaitable[object]]:
    return lambda stack: stub(stack).AuthorizeAdmin(pb.AuthorizeAdminRequest(call=a_call(**fields)), timeout=5)


def _count(**fields: Any) -> Callable[[Stack], Awaitable[object]]:
    return lambda stack: stub(stack).CountEvent(pb.CountEventRequest(rate=a_rate(**fields)), timeout=5)


WRONG: dict[str, tuple[str, Callable[[Stack], Awaitable[object]]]] = {
    "no kind": ("rate.kind", _count(kind=pb.RATE_KIND_UNSPECIFIED)),
    "an unknown kind": ("rate.kind", _count(kind=99)),
    "no subject": ("rate.subject", _count(subject="")),
    "a long subject": ("rate.subject", _count(subject="x" * 129)),
    "a control character": ("rate.subject", _count(subject="a\nb")),
    "no limit": ("rate.per_minute", _count(per_minute=0)),
    "a huge limit": ("rate.per_minute", _count(per_minute=1_000_001)),
    "no rate": ("rate", lambda stack: stub(stack).CountEvent(pb.CountEventRequest(), timeout=5)),
    "another kind": ("rate.kind", lambda stack: create(stack, a_rate(pb.RATE_KIND_BAD_KEY))),
    "negative generations": ("generations_per_minute", lambda stack: check(stack, "token", -1)),
    "huge generations": ("generations_per_minute", lambda stack: check(stack, "token", 1_000_001)),
    "no call": ("call", lambda stack: stub(stack).OpenAdminSession(pb.OpenAdminSessionRequest(), timeout=5)),
    "no action": ("call.action", _authorize(action="")),
    "a loud action": ("call.action", _authorize(action="Admin")),
    "a long action": ("call.action", _authorize(action="a" * 65)),
    "a long address": ("call.address", _authorize(address="x" * 65)),
    "an address of two lines": ("call.address", _authorize(address="a\nb")),
    "long details": ("call.details", _authorize(details="x" * 513)),
    "an unknown key": ("call.key", _authorize(key=99)),
    "no timeout": ("call.idle_timeout", _authorize(idle_timeout=None)),
    "a negative timeout": ("call.idle_timeout", _authorize(idle_timeout=Duration(seconds=-1))),
    "an endless timeout": ("call.idle_timeout", _authorize(idle_timeout=Duration(seconds=2**62))),
    "negative keys": ("call.bad_keys_per_minute", _authorize(bad_keys_per_minute=-1)),
    "a negative number": ("limit", lambda stack: audit(stack, -1)),
    "too many": ("limit", lambda stack: audit(stack, 1001)),
}


@pytest.mark.parametrize(("field", "call"), WRONG.values(), ids=WRONG.keys())
async def test_field_is_named_when_it_is_wrong(stack: Stack, field: str, call: Callable[[Stack], Awaitable[object]]) -> None:
    refusal = await error_of(call(stack))
    assert refusal.code == "validation_error"
    assert [violation.field for violation in refusal.violations] == [field]
    # A call that says nothing of use is no admin call.
    assert await audit(stack) == []


async def test_every_wrong_field_is_named_when_there_are_several(stack: Stack) -> None:
    refusal = await error_of(_authorize(action="", key=99, address="x" * 65)(stack))
    assert [violation.field for violation in refusal.violations] == ["call.action", "call.address", "call.key"]


EVERY: dict[str, Callable[[Stack], Awaitable[object]]] = {
    "CreateSession": create,
    "CheckSession": lambda stack: check(stack, "token"),
    "CountEvent": _count(),
    "OpenAdminSession": lambda stack: stub(stack).OpenAdminSession(pb.OpenAdminSessionRequest(call=a_call()), timeout=5),
    "AuthorizeAdmin": _authorize(),
    "CloseAdminSession": lambda stack: stub(stack).CloseAdminSession(pb.CloseAdminSessionRequest(call=a_call()), timeout=5),
    "ListAudit": audit,
}


@pytest.mark.parametrize("call", EVERY.values(), ids=EVERY.keys())
async def test_every_call_is_refused_when_the_doors_are_closed(stack: Stack, call: Callable[[Stack], Awaitable[object]]) -> None:
    stack.doors.close()
    assert (await error_of(call(stack))).code == "service_unavailable"
