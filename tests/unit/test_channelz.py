"""What channelz tells of a server and its connections, to whom, and that it can be turned off."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_channelz.v1 import channelz_pb2 as pb
from grpc_channelz.v1.channelz_pb2_grpc import ChannelzStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtime.credentials import OPEN_SERVER, CallerCredentials, ServerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.roles import CHANNELZ_METHODS, Role
from runtime.rpc import GrpcServer, create_channel
from runtime.rpc_errors import service_error
from tests.harness.credentials import TOKENS

CALL_S = 5.0
UNKNOWN = 1 << 40


def _stub(cls: Any, channel: grpc.aio.Channel) -> Any:
    """Their types know no asyncio."""
    return cls(channel)


class Watched:
    """A server, a channel to it, and its channelz."""

    def __init__(self, server: GrpcServer, channel: grpc.aio.Channel) -> None:
        self.server = server
        self._channel = channel
        self.channelz = _stub(ChannelzStub, channel)

    async def probe(self, times: int) -> None:
        """Calls that count."""
        for _ in range(times):
            await _stub(health_pb2_grpc.HealthStub, self._channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)

    async def listed(self) -> set[str]:
        """Services, by reflection."""
        call = _stub(reflection_pb2_grpc.ServerReflectionStub, self._channel).ServerReflectionInfo(timeout=CALL_S)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()
        return {service.name for service in answer.list_services_response.service}

    async def of_this(self) -> Any:
        """The server among those of the test's process: the one that was made last."""
        answer = await self.channelz.GetServers(pb.GetServersRequest(), timeout=CALL_S)
        return max(answer.server, key=lambda one: one.ref.server_id)


@asynccontextmanager
async def watched(*, channelz: bool = True, credentials: ServerCredentials = OPEN_SERVER, token: str = "") -> AsyncIterator[Watched]:
    """Serves health and channelz."""
    server = GrpcServer("127.0.0.1:0", {}, credentials=credentials, channelz=channelz)
    await server.start()
    try:
        async with create_channel(f"127.0.0.1:{server.port}", CallerCredentials(token=token)) as channel:
            yield Watched(server, channel)
    finally:
        await server.stop(0)


async def _refusal(call: Any) -> tuple[grpc.StatusCode, ServiceError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), service_error(caught.value)


async def test_calls_are_counted_when_they_end() -> None:
    async with watched() as one:
        await one.probe(3)
        before = (await one.of_this()).data
        await one.probe(2)
        after = (await one.of_this()).data
    # Two probes, and the look before.
    assert after.calls_started - before.calls_started == 3
    assert after.calls_succeeded - before.calls_succeeded == 3


async def test_connection_is_told_with_both_ends_when_a_client_is_there() -> None:
    async with watched() as one:
        await one.probe(1)
        server = (await one.of_this()).ref.server_id
        sockets = await one.channelz.GetServerSockets(pb.GetServerSocketsRequest(server_id=server), timeout=CALL_S)
        (ref,) = sockets.socket_ref
        socket = (await one.channelz.GetSocket(pb.GetSocketRequest(socket_id=ref.socket_id), timeout=CALL_S)).socket
        assert ipaddress.ip_address(socket.remote.tcpip_address.ip_address).is_loopback
        assert socket.local.tcpip_address.port == one.server.port
        assert socket.data.messages_received >= 2


async def test_channel_is_ready_down_to_its_connection_when_it_is_connected() -> None:
    async with watched() as one:
        await one.probe(1)
        channels = (await one.channelz.GetTopChannels(pb.GetTopChannelsRequest(), timeout=CALL_S)).channel
        (own,) = [channel for channel in channels if channel.data.target.endswith(f":{one.server.port}")]
        channel = (await one.channelz.GetChannel(pb.GetChannelRequest(channel_id=own.ref.channel_id), timeout=CALL_S)).channel
        assert channel.data.state.state == pb.ChannelConnectivityState.READY
        below = pb.GetSubchannelRequest(subchannel_id=channel.subchannel_ref[0].subchannel_id)
        subchannel = (await one.channelz.GetSubchannel(below, timeout=CALL_S)).subchannel
        assert subchannel.data.state.state == pb.ChannelConnectivityState.READY
        assert len(subchannel.socket_ref) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda to: to.GetServer(pb.GetServerRequest(server_id=UNKNOWN), timeout=CALL_S),
        lambda to: to.GetServerSockets(pb.GetServerSocketsRequest(server_id=UNKNOWN, max_results=-1), timeout=CALL_S),
        lambda to: to.GetChannel(pb.GetChannelRequest(channel_id=-1), timeout=CALL_S),
        lambda to: to.GetSubchannel(pb.GetSubchannelRequest(subchannel_id=UNKNOWN), timeout=CALL_S),
        lambda to: to.GetSocket(pb.GetSocketRequest(socket_id=-(2**63)), timeout=CALL_S),
    ],
)
async def test_error_says_what_is_not_there_when_an_id_is_unknown(ask: Callable[[Any], Any]) -> None:
    async with watched() as one:
        status, error = await _refusal(ask(one.channelz))
    assert (status, error.code) == (grpc.StatusCode.NOT_FOUND, ErrorCode.CHANNELZ_NOT_FOUND)


async def test_operators_alone_are_told_when_tokens_are_configured() -> None:
    credentials = ServerCredentials(tokens={role: (TOKENS[role],) for role in Role})
    for role in Role:
        async with watched(credentials=credentials, token=TOKENS[role]) as one:
            if role is Role.OPERATOR:
                assert (await one.of_this()).data.calls_started >= 1
                continue
            for method in CHANNELZ_METHODS:
                request = getattr(pb, f"{method}Request")()
                _, error = await _refusal(getattr(one.channelz, method)(request, timeout=CALL_S))
                assert (error.code, error.metadata["needed"]) == (ErrorCode.FORBIDDEN, "operator")


async def test_nothing_is_served_or_counted_when_it_is_turned_off() -> None:
    async with watched() as seen, watched(channelz=False) as unseen:
        await asyncio.gather(seen.probe(1), unseen.probe(1))
        status, _ = await _refusal(unseen.channelz.GetServers(pb.GetServersRequest(), timeout=CALL_S))
        assert status is grpc.StatusCode.UNIMPLEMENTED
        assert (await seen.listed()) - (await unseen.listed()) == {"grpc.channelz.v1.Channelz"}
        # Of all servers of this process, which both are in, channelz knows one.
        servers = (await seen.channelz.GetServers(pb.GetServersRequest(), timeout=CALL_S)).server
        ports = set()
        for server in servers:
            sockets = await seen.channelz.GetServerSockets(pb.GetServerSocketsRequest(server_id=server.ref.server_id), timeout=CALL_S)
            for ref in sockets.socket_ref:
                socket = (await seen.channelz.GetSocket(pb.GetSocketRequest(socket_id=ref.socket_id), timeout=CALL_S)).socket
                ports.add(socket.local.tcpip_address.port)
        assert seen.server.port in ports
        assert unseen.server.port not in ports
