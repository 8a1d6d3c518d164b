"""Who may call what: the table against the protos, and every role against every method over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from runtime.credentials import CallerCredentials, ServerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.metrics.registry import Registry
from runtime.metrics.rpc import RpcMetrics
from runtime.roles import ALLOWED, Role, roles_of
from runtime.rpc import create_channel
from runtime.rpc_errors import service_error
from tests.harness.credentials import TOKENS
from tests.harness.echo import call, echo, methods, path_of, services
from tests.harness.metrics import page_of

ADMISSION, ACCESS, OPERATOR, DISPATCH, INSPECTION, CHANNELZ = (
    "warmlane.admission.v1.AdmissionService",
    "warmlane.admission.v1.AccessService",
    "warmlane.admission.v1.OperatorService",
    "warmlane.lane.v1.DispatchService",
    "warmlane.lane.v1.InspectionService",
    "grpc.channelz.v1.Channelz",
)
# As ADRs 13 and 16 have it, in their own words: whole services, and what a bridge may read and say for an admin.
WHOLE = {
    Role.BRIDGE: {ADMISSION, ACCESS},
    Role.CLIENT: {ADMISSION},
    Role.LANE: {DISPATCH},
    Role.OPERATOR: {ADMISSION, OPERATOR, INSPECTION, CHANNELZ},
}
OF_BRIDGES = {f"/{OPERATOR}/{name}" for name in ("GetSnapshot", "WatchEvents", "DrainLane", "SetFallback")}


def _may(role: Role, method: MethodDescriptor) -> bool:
    return method.containing_service.full_name in WHOLE[role] or (role is Role.BRIDGE and path_of(method) in OF_BRIDGES)


async def _outcome(channel: grpc.aio.Channel, method: MethodDescriptor) -> ServiceError | None:
    try:
        await call(channel, method)
    except grpc.aio.AioRpcError as error:
        return service_error(error)
    return None


async def _outcomes(port: int, token: str, some: Iterable[MethodDescriptor]) -> dict[str, ServiceError | None]:
    async with create_channel(f"127.0.0.1:{port}", CallerCredentials(token=token)) as channel:
        asked = list(some)
        return dict(zip(map(path_of, asked), await asyncio.gather(*(_outcome(channel, method) for method in asked)), strict=True))


def _server(roles: Iterable[Role] = Role) -> ServerCredentials:
    return ServerCredentials(tokens={role: (TOKENS[role],) for role in roles})


def test_table_names_every_method_when_the_protos_are_walked() -> None:
    assert {service: set(named) for service, named in ALLOWED.items()} == {
        service.full_name: {method.name for method in service.methods} for service in services()
    }
    assert all(roles for named in ALLOWED.values() for roles in named.values())


def test_nobody_may_call_a_method_when_the_table_does_not_name_it() -> None:
    assert roles_of(f"/{ADMISSION}/NewMethod") == frozenset()
    assert roles_of("/warmlane.other.v1.OtherService/Method") == frozenset()


@pytest.mark.parametrize("role", Role)
async def test_role_may_call_what_is_its_own_and_nothing_else_when_every_method_is_called(role: Role) -> None:
    async with echo(_server()) as server:
        outcomes = await _outcomes(server.port, TOKENS[role], methods())
    for method in methods():
        error = outcomes[path_of(method)]
        if _may(role, method):
            assert error is None, path_of(method)
        else:
            assert error is not None, path_of(method)
            needed = {other for other in Role if _may(other, method)}
            assert error.code == ErrorCode.FORBIDDEN
            assert (error.metadata["role"], set(error.metadata["needed"].split(","))) == (role, needed)
            assert all(other in error.message for other in needed)


@pytest.mark.parametrize("token", ["", "x" * 40, TOKENS[Role.OPERATOR][:-1], TOKENS[Role.OPERATOR] + "0"])
async def test_caller_is_unauthenticated_when_its_token_is_missing_or_wrong(token: str) -> None:
    async with echo(_server()) as server:
        outcomes = await _outcomes(server.port, token, methods())
    assert len(outcomes) == len(methods())
    for error in outcomes.values():
        assert error is not None
        assert error.code == ErrorCode.UNAUTHENTICATED
        assert not token or token not in f"{error} {error.metadata}"


async def test_everything_is_open_when_no_token_is_configured() -> None:
    async with echo() as server:
        assert set((await _outcomes(server.port, "", methods())).values()) == {None}
        assert set((await _outcomes(server.port, "x" * 40, methods())).values()) == {None}


async def test_role_without_a_token_cannot_call_when_other_roles_have_one() -> None:
    async with echo(_server([Role.LANE])) as server:
        refused = await _outcomes(server.port, TOKENS[Role.OPERATOR], methods())
        let_in = await _outcomes(server.port, TOKENS[Role.LANE], [one for one in methods() if _may(Role.LANE, one)])
    assert {error.code if error else None for error in refused.values()} == {ErrorCode.UNAUTHENTICATED}
    assert set(let_in.values()) == {None}


async def test_both_tokens_are_taken_when_one_replaces_the_other() -> None:
    old, new = "old-" + "a" * 32, "new-" + "b" * 32
    async with echo(ServerCredentials(tokens={Role.LANE: (old, new)})) as server:
        own = [one for one in methods() if _may(Role.LANE, one)]
        for token in (old, new):
            assert set((await _outcomes(server.port, token, own)).values()) == {None}


async def test_refused_calls_are_counted_by_their_status_when_metrics_are_on() -> None:
    registry = Registry("test")
    (submit,) = [one for one in methods() if one.name == "SubmitTask"]
    async with echo(_server(), observer=RpcMetrics(registry)) as server:
        for token in ("", "x" * 40, TOKENS[Role.LANE], TOKENS[Role.CLIENT]):
            await _outcomes(server.port, token, [submit])
    page = page_of(registry)
    for code, count in (("UNAUTHENTICATED", 2), ("PERMISSION_DENIED", 1), ("OK", 1)):
        assert page.value("grpc_requests_total", method=f"{ADMISSION}/SubmitTask", code=code) == count


async def test_stream_is_refused_at_once_when_its_caller_has_sent_nothing_yet() -> None:
    async with echo(_server()) as server, create_channel(f"127.0.0.1:{server.port}") as channel:
        attach = DispatchServiceStub(channel).Attach(timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attach.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
