"""AccessService over a real channel, with sessions in memory."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import grpc.aio
import pytest
from warmlane.admission.v1 import access_service_pb2 as pb
from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceStub

from runtime.rpc_errors import service_error
from tests.unit.service.conftest import Stack

DAY_S = 24 * 3600


async def _check(stack: Stack, token: str) -> pb.CheckSessionResponse:
    return await AccessServiceStub(stack.channel).CheckSession(pb.CheckSessionRequest(token=token), timeout=5)


async def _create(stack: Stack) -> pb.CreateSessionResponse:
    return await AccessServiceStub(stack.channel).CreateSession(pb.CreateSessionRequest(), timeout=5)


async def test_only_the_hash_of_a_token_is_kept_when_a_session_is_opened(stack: Stack) -> None:
    opened = await _create(stack)

    [session] = stack.sessions.kept.values()
    assert session.token_sha256 == hashlib.sha256(opened.token.encode()).hexdigest()
    assert opened.token not in repr(session)
    assert len(opened.token) >= 43  # 256 bits in base64
    assert session.expires_at == stack.clock.now().utc + timedelta(hours=24)
    assert opened.expires_at.ToDatetime() == session.expires_at.replace(tzinfo=None)


async def test_session_is_active_when_its_token_comes_back(stack: Stack) -> None:
    opened = await _create(stack)
    stack.clock.advance(DAY_S - 0.001)

    answer = await _check(stack, opened.token)

    assert answer.state == pb.SESSION_STATE_ACTIVE
    assert answer.session_id == next(iter(stack.sessions.kept.values())).session_id
    assert answer.expires_at == opened.expires_at


async def test_session_is_expired_when_its_day_is_over(stack: Stack) -> None:
    opened = await _create(stack)
    stack.clock.advance(DAY_S)

    answer = await _check(stack, opened.token)

    assert (answer.state, answer.session_id) == (pb.SESSION_STATE_EXPIRED, "")
    assert answer.expires_at == opened.expires_at


@pytest.mark.parametrize("token", ["", "made up"])
async def test_session_is_invalid_when_nobody_knows_the_token(stack: Stack, token: str) -> None:
    answer = await _check(stack, token)

    assert (answer.state, answer.HasField("expires_at")) == (pb.SESSION_STATE_INVALID, False)


async def test_no_session_is_opened_when_it_cannot_be_stored(stack: Stack) -> None:
    stack.sessions.is_down = True

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _create(stack)

    assert service_error(caught.value).code == "service_unavailable"
