"""Several bridges of one admission process, and its restarts on SQLite: one count, one revocation, nothing lost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from warmlane.admission.v1 import access_service_pb2 as pb
from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceStub

from runtime.rpc import create_channel
from tests.harness.admission_process import Admission, start_admission
from tests.harness.admission_services import error_of

if TYPE_CHECKING:
    from warmlane.admission.v1.access_service_pb2_grpc import AccessServiceAsyncStub

ADDRESS = "203.0.113.7"


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Admission, AccessServiceAsyncStub, AccessServiceAsyncStub]]:
    """The process, and two bridges of it, each with a connection of its own."""
    admission = await start_admission(folder)
    try:
        address = f"127.0.0.1:{await admission.port()}"
        async with create_channel(address) as one, create_channel(address) as other:
            yield admission, AccessServiceStub(one), AccessServiceStub(other)
    finally:
        await admission.kill()


def a_call(action: str, **fields: Any) -> pb.AdminCall:
    """An admin call from one address."""
    values: dict[str, Any] = {"action": action, "address": ADDRESS, "idle_timeout": Duration(seconds=3600), "bad_keys_per_minute": 4}
    return pb.AdminCall(**(values | fields))


async def opened(bridge: AccessServiceAsyncStub) -> str:
    """The token of a new admin session."""
    request = pb.OpenAdminSessionRequest(call=a_call("open", key=pb.ADMIN_KEY_RIGHT))
    return (await bridge.OpenAdminSession(request, timeout=10)).token


async def used(bridge: AccessServiceAsyncStub, token: str, key: pb.AdminKey.ValueType = pb.ADMIN_KEY_ABSENT) -> int:
    """The verdict on a call."""
    request = pb.AuthorizeAdminRequest(call=a_call("use", token=token, key=key))
    return (await bridge.AuthorizeAdmin(request, timeout=10)).verdict


async def closed(bridge: AccessServiceAsyncStub, token: str) -> int:
    """The verdict on closing the session."""
    return (await bridge.CloseAdminSession(pb.CloseAdminSessionRequest(call=a_call("close", token=token)), timeout=10)).verdict


async def log(bridge: AccessServiceAsyncStub) -> list[tuple[str, bool, str]]:
    """Action, success and details, oldest first."""
    entries = (await bridge.ListAudit(pb.ListAuditRequest(), timeout=10)).entries
    return [(entry.action, entry.success, entry.details) for entry in reversed(entries)]


async def test_bridges_share_counts_and_revocations_and_a_restart_keeps_what_is_on_disk(tmp_path: Path) -> None:
    rate = pb.Rate(kind=pb.RATE_KIND_NEW_SESSION, subject=ADDRESS, per_minute=4)
    async with running(tmp_path) as (admission, one, other):
        # One count.
        for bridge in (one, other, one, other):
            session = (await bridge.CreateSession(pb.CreateSessionRequest(rate=rate), timeout=10)).token
        for bridge in (one, other):
            assert (await error_of(bridge.CreateSession(pb.CreateSessionRequest(rate=rate), timeout=10))).code == "rate_limited"
        # One revocation.
        kept, revoked = await opened(one), await opened(one)
        assert await used(other, revoked) == pb.ADMIN_VERDICT_GRANTED
        assert await closed(one, revoked) == pb.ADMIN_VERDICT_GRANTED
        assert await used(other, revoked) == pb.ADMIN_VERDICT_SESSION_INVALID
        # One count of wrong keys.
        for bridge in (one, other, one, other):
            assert await used(bridge, "", pb.ADMIN_KEY_WRONG) == pb.ADMIN_VERDICT_KEY_INVALID
        for bridge in (one, other):
            assert await used(bridge, "", pb.ADMIN_KEY_RIGHT) == pb.ADMIN_VERDICT_RATE_LIMITED
        before = await log(one)
        admission.process.send_signal(signal.SIGTERM)
        assert (await admission.end())[0] == 0
    assert before == [
        ("open", True, ""),
        ("open", True, ""),
        ("use", True, ""),
        ("close", True, ""),
        ("use", False, "unknown or ended session"),
        ("use", False, "wrong key (4 times)"),
        ("use", False, "too many wrong keys from this address (2 times)"),
    ]
    async with running(tmp_path) as (admission, one, _):
        assert await log(one) == before
        # Rates begin anew, sessions do not.
        assert await used(one, "", pb.ADMIN_KEY_RIGHT) == pb.ADMIN_VERDICT_GRANTED
        assert await used(one, kept) == pb.ADMIN_VERDICT_GRANTED
        assert await used(one, revoked) == pb.ADMIN_VERDICT_SESSION_INVALID
        checked = await one.CheckSession(pb.CheckSessionRequest(token=session), timeout=10)
        assert checked.state == pb.SESSION_STATE_ACTIVE
        await closed(one, kept)
        await admission.kill()
    async with running(tmp_path) as (_, one, _other):
        # What was answered before the kill is there.
        assert (await log(one))[len(before) :] == [
            ("use", True, ""),
            ("use", True, ""),
            ("use", False, "unknown or ended session"),
            ("close", True, ""),
        ]
        assert await used(one, kept) == pb.ADMIN_VERDICT_SESSION_INVALID


async def test_nothing_of_a_token_is_said_when_the_process_logs(tmp_path: Path) -> None:
    async with running(tmp_path) as (admission, one, other):
        token, session = await opened(one), (await one.CreateSession(pb.CreateSessionRequest(), timeout=10)).token
        await asyncio.gather(used(one, token), used(other, f"{token}x"), closed(other, token))
        admission.process.send_signal(signal.SIGTERM)
        _, said = await admission.end()
    stored = _stored(tmp_path)
    for secret in (token, session):
        assert secret not in said
        assert secret.encode() not in stored


def _stored(folder: Path) -> bytes:
    """The database with its side files."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("admission.db*")))
