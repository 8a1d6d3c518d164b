"""What access decides about sessions, keys and rates."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import timedelta

import pytest

from admission.access_types import AdminKey, Rate, RateLimitedError, SessionState, Verdict
from admission.rates import RateKind
from admission.store.port import StoreUnavailableError
from tests.unit.access.conftest import ADDRESS, HOUR, Rig, a_call

HOUR_S = 3600.0
GRANTED, EXPIRED, INVALID = Verdict.GRANTED, Verdict.SESSION_EXPIRED, Verdict.SESSION_INVALID


# Idle time


async def test_session_is_over_when_it_was_idle_for_exactly_its_timeout(rig: Rig) -> None:
    first, second = await rig.opened(), await rig.opened()
    rig.clock.advance(HOUR_S - 0.001)
    assert await rig.by_token(first) is GRANTED
    rig.clock.advance(0.001)
    assert await rig.by_token(second) is EXPIRED
    # The first was renewed.
    rig.clock.advance(HOUR_S - 0.002)
    assert await rig.by_token(first) is GRANTED
    rig.clock.advance(HOUR_S)
    assert await rig.by_token(first) is EXPIRED


async def test_answer_tells_this_use_when_a_call_is_let_in(rig: Rig) -> None:
    token = await rig.opened()
    rig.clock.advance(60)
    for answer in (await rig.by_key(AdminKey.ABSENT, token=token), await rig.by_key(AdminKey.RIGHT)):
        assert answer.last_activity_at == rig.clock.now().utc
    assert (await rig.by_key(AdminKey.WRONG)).last_activity_at is None


async def test_shorter_timeout_ends_a_session_for_everybody_when_a_call_brings_it(rig: Rig) -> None:
    token = await rig.opened()
    rig.clock.advance(600)
    assert await rig.by_token(token, idle_timeout=timedelta(minutes=10)) is EXPIRED
    # Nobody is told otherwise afterwards, whatever timeout another bridge has.
    assert await rig.by_token(token, idle_timeout=10 * HOUR) is EXPIRED


async def test_longer_timeout_brings_no_session_back_when_it_was_over(rig: Rig) -> None:
    over, live = await rig.opened(), await rig.opened()
    rig.clock.advance(HOUR_S - 1)
    assert await rig.by_token(live, idle_timeout=2 * HOUR) is GRANTED
    rig.clock.advance(1)
    assert await rig.by_token(over, idle_timeout=2 * HOUR) is EXPIRED
    rig.clock.advance(HOUR_S)
    assert await rig.by_token(live, idle_timeout=2 * HOUR) is GRANTED


async def test_use_counts_from_the_later_call_when_two_come_at_once(rig: Rig) -> None:
    token = await rig.opened()
    early = rig.access.authorize_admin(a_call(key=AdminKey.ABSENT, token=token))
    task = asyncio.create_task(early)
    await asyncio.sleep(0)
    rig.clock.advance(60)
    assert await rig.by_token(token) is GRANTED
    assert (await task).verdict is GRANTED
    session = await rig.store.access.admin_session(hashlib.sha256(token.encode()).hexdigest())
    assert session is not None
    assert session.last_activity_at == rig.clock.now().utc


# Revocation


async def test_token_is_invalid_from_then_on_when_its_session_was_closed(rig: Rig) -> None:
    token, other = await rig.opened(), await rig.opened()
    assert await rig.close(token) is GRANTED
    assert await rig.by_token(token) is INVALID
    assert await rig.close(token) is INVALID
    assert await rig.by_token(other) is GRANTED


async def test_no_use_brings_a_session_back_when_it_is_closed_meanwhile(rig: Rig) -> None:
    token = await rig.opened()
    verdicts = await asyncio.gather(*(rig.by_token(token) for _ in range(5)), rig.close(token), *(rig.by_token(token) for _ in range(5)))
    assert verdicts[5] is GRANTED
    assert set(verdicts) <= {GRANTED, INVALID}
    assert await rig.by_token(token) is INVALID


async def test_session_stays_expired_when_it_is_closed_too_late(rig: Rig) -> None:
    token = await rig.opened()
    rig.clock.advance(HOUR_S)
    assert await rig.close(token) is EXPIRED
    assert await rig.close(token, AdminKey.RIGHT) is GRANTED
    assert await rig.close(token) is INVALID


async def test_right_key_is_let_in_when_it_closes_whatever_token(rig: Rig) -> None:
    token = await rig.opened()
    for closed in (token, token, "", "made up", "x" * 5000):
        assert await rig.close(closed, AdminKey.RIGHT) is GRANTED
    assert await rig.by_token(token) is INVALID


async def test_session_lives_on_when_a_wrong_key_comes_with_its_token(rig: Rig) -> None:
    token = await rig.opened()
    for key, verdict in ((AdminKey.WRONG, Verdict.KEY_INVALID), (AdminKey.MISCONFIGURED, Verdict.MISCONFIGURED)):
        assert await rig.close(token, key) is verdict
        # The key decides, though the token is good.
        assert (await rig.by_key(key, token=token)).verdict is verdict
    assert await rig.by_token(token) is GRANTED


# Opening


@pytest.mark.parametrize(
    ("key", "verdict"),
    [
        (AdminKey.ABSENT, Verdict.SESSION_MISSING),
        (AdminKey.WRONG, Verdict.KEY_INVALID),
        (AdminKey.MISCONFIGURED, Verdict.MISCONFIGURED),
    ],
)
async def test_no_session_is_opened_when_the_right_key_is_not_there(rig: Rig, key: AdminKey, verdict: Verdict) -> None:
    token = await rig.opened()
    answer = await rig.access.open_admin_session(a_call(key=key, token=token))
    assert (answer.verdict, answer.token) == (verdict, "")


@pytest.mark.parametrize(
    ("token", "verdict"), [("", Verdict.SESSION_MISSING), ("made up", INVALID), ("x" * 5000, INVALID), ("東京\0", INVALID)]
)
async def test_verdict_says_what_is_wrong_when_no_session_has_the_token(rig: Rig, token: str, verdict: Verdict) -> None:
    assert await rig.by_token(token) is verdict
    assert await rig.close(token) is verdict


async def test_token_is_nowhere_but_in_the_answer_when_a_session_is_opened(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    token = await rig.opened()
    await rig.by_token(token)
    await rig.by_token(f"{token}x")
    sha256 = hashlib.sha256(token.encode()).hexdigest()
    session = await rig.store.access.admin_session(sha256)
    assert session is not None
    kept = f"{session} {await rig.access.audit(100)} {capsys.readouterr()}"
    assert token not in kept
    # The session's public id says nothing of it either.
    assert session.session_id not in (token, sha256)


async def test_admin_and_generation_sessions_are_not_one_another_when_their_tokens_are_swapped(rig: Rig) -> None:
    admin = await rig.opened()
    _, token = await rig.access.create_session(None)
    assert await rig.by_token(token) is INVALID
    assert (await rig.access.check_session(admin, 0)).state is SessionState.INVALID


# Wrong keys


async def test_every_key_of_an_address_is_refused_when_too_many_were_wrong(rig: Rig) -> None:
    for _ in range(10):
        assert (await rig.by_key(AdminKey.WRONG)).verdict is Verdict.KEY_INVALID
        rig.clock.advance(1)
    for key in (AdminKey.WRONG, AdminKey.RIGHT):
        answer = await rig.by_key(key)
        # The first came 10 s ago.
        assert (answer.verdict, answer.retry_after_s) == (Verdict.RATE_LIMITED, 50.0)
    assert (await rig.by_key(AdminKey.RIGHT, address="203.0.113.8")).verdict is GRANTED
    rig.clock.advance(50)
    assert (await rig.by_key(AdminKey.RIGHT)).verdict is GRANTED
    assert (await rig.by_key(AdminKey.WRONG)).verdict is Verdict.KEY_INVALID
    assert (await rig.by_key(AdminKey.WRONG)).verdict is Verdict.RATE_LIMITED


async def test_guesses_of_one_network_count_together_when_their_addresses_differ(rig: Rig) -> None:
    for number in range(10):
        await rig.by_key(AdminKey.WRONG, address=f"2001:db8::{number}")
    assert (await rig.by_key(AdminKey.RIGHT, address="2001:db8::ffff")).verdict is Verdict.RATE_LIMITED


async def test_session_is_used_as_ever_when_its_address_may_not_send_keys(rig: Rig) -> None:
    token = await rig.opened()
    for _ in range(11):
        await rig.by_key(AdminKey.WRONG)
    assert await rig.by_token(token) is GRANTED


async def test_no_key_is_refused_for_others_when_there_is_no_limit(rig: Rig) -> None:
    for _ in range(50):
        assert (await rig.by_key(AdminKey.WRONG, bad_keys_per_minute=0)).verdict is Verdict.KEY_INVALID
    assert (await rig.by_key(AdminKey.RIGHT)).verdict is GRANTED


async def test_nothing_is_counted_when_no_key_could_be_right(rig: Rig) -> None:
    for _ in range(20):
        assert (await rig.by_key(AdminKey.MISCONFIGURED)).verdict is Verdict.MISCONFIGURED
    assert (await rig.by_key(AdminKey.RIGHT)).verdict is GRANTED


async def test_wrong_api_keys_count_apart_when_admin_keys_are_wrong_too(rig: Rig) -> None:
    rate = Rate(kind=RateKind.BAD_KEY, subject=ADDRESS, per_minute=10)
    for _ in range(10):
        rig.access.count(rate)
        await rig.by_key(AdminKey.WRONG)
    with pytest.raises(RateLimitedError):
        rig.access.count(rate)
    assert (await rig.by_key(AdminKey.RIGHT)).verdict is Verdict.RATE_LIMITED
    assert rig.told.limited == [RateKind.BAD_KEY, RateKind.BAD_ADMIN_KEY]


async def test_guesses_are_counted_one_by_one_when_they_come_at_once(rig: Rig) -> None:
    answers = await asyncio.gather(*(rig.by_key(AdminKey.WRONG) for _ in range(30)))
    assert [answer.verdict for answer in answers].count(Verdict.KEY_INVALID) == 10


# Rates of sessions and generations


async def test_no_session_is_stored_when_its_rate_is_used_up(rig: Rig) -> None:
    rate = Rate(kind=RateKind.NEW_SESSION, subject=ADDRESS, per_minute=2)
    tokens = [(await rig.access.create_session(rate))[1] for _ in range(2)]
    with pytest.raises(RateLimitedError) as caught:
        await rig.access.create_session(rate)
    assert (caught.value.kind, caught.value.per_minute, caught.value.retry_after_s) == (RateKind.NEW_SESSION, 2, 60.0)
    assert [(await rig.access.check_session(token, 0)).state for token in tokens] == [SessionState.ACTIVE] * 2
    assert rig.told.limited == [RateKind.NEW_SESSION]


async def test_generations_are_exact_when_they_come_at_once(rig: Rig) -> None:
    _, token = await rig.access.create_session(None)
    answers = await asyncio.gather(*(rig.access.check_session(token, 5) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, RateLimitedError) for answer in answers) == 15


# The store


async def test_nobody_is_let_in_when_it_cannot_be_written_down(rig: Rig) -> None:
    token = await rig.opened()
    rig.store.fail_writes = True
    for call in (
        rig.access.open_admin_session(a_call()),
        rig.access.authorize_admin(a_call()),
        rig.access.authorize_admin(a_call(key=AdminKey.ABSENT, token=token)),
        rig.access.close_admin_session(a_call(key=AdminKey.ABSENT, token=token)),
        rig.access.authorize_admin(a_call(key=AdminKey.WRONG)),
        rig.access.create_session(None),
    ):
        with pytest.raises(StoreUnavailableError):
            await call
    rig.store.fail_writes = False
    assert await rig.by_token(token) is GRANTED
    assert [success for _, success, _ in await rig.log()] == [True, True]


async def test_sessions_and_the_log_are_there_when_another_access_takes_over(rig: Rig) -> None:
    token, closed = await rig.opened(), await rig.opened()
    await rig.close(closed)
    _, session = await rig.access.create_session(None)
    for _ in range(3):
        await rig.by_key(AdminKey.WRONG)
    await rig.access.close()
    before = await rig.log()

    rig.access = rig.another()

    assert await rig.log() == before
    assert before[-1] == ("admin_logs", False, "wrong key (3 times)")
    assert (await rig.by_token(token), await rig.by_token(closed)) == (GRANTED, INVALID)
    assert (await rig.access.check_session(session, 0)).state is SessionState.ACTIVE
    # Rates begin anew.
    for _ in range(10):
        assert (await rig.by_key(AdminKey.WRONG)).verdict is Verdict.KEY_INVALID
