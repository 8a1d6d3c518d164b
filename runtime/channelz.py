"""Channelz of a gRPC server: what gRPC itself counts of this process's servers, channels and connections, for operators."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import grpc
import grpc.aio

from runtime.errors import ErrorCode, ServiceError
from runtime.roles import CHANNELZ_METHODS

if TYPE_CHECKING:
    from google.protobuf.message import Message


class _Said:
    """The part of a handler's context through which the library tells an error."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


class _Ask(Protocol):
    def __call__(self, request: Message, context: _Said) -> Message: ...


class _Channelz:
    """The service, its errors told as those of every service of ours are. Each answer is made of memory: nothing waits."""

    def __init__(self, library: type) -> None:
        for method in CHANNELZ_METHODS:
            setattr(self, method, _answering(getattr(library, method)))


def add_channelz(server: grpc.aio.Server) -> str:
    """Adds the service; returns its full name."""
    # Late: whoever does not serve it loads none of it.
    from grpc_channelz.v1 import channelz, channelz_pb2, channelz_pb2_grpc

    channelz_pb2_grpc.add_ChannelzServicer_to_server(_Channelz(channelz.ChannelzServicer), server)
    name: str = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name
    return name


def _answering(ask: _Ask) -> Callable[[Message, object], Awaitable[Message]]:
    async def call(request: Message, _context: object) -> Message:
        said = _Said()
        answer = ask(request, said)
        if said.code is None:
            return answer
        if said.code is grpc.StatusCode.NOT_FOUND:
            raise ServiceError(
                code=ErrorCode.CHANNELZ_NOT_FOUND,
                message="Nothing of this kind has this id; GetServers and GetTopChannels have the ids, and what is closed goes.",
            )
        raise RuntimeError(said.details)

    return call
