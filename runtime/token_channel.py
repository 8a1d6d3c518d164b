"""Channels whose calls carry metadata: a token, or what the caller adds at each.

Call credentials of gRPC need TLS, and interceptors of grpc.aio cost a task and a second call object for every call; adding the metadata
where the call is made costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import cast

import grpc
import grpc.aio


class CarryingChannel(grpc.aio.Channel):
    """Passes everything on to the channel that it owns; every call is made with metadata of its own."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Callable[[], grpc.aio.Metadata | None]) -> None:
        """Owns the channel from now on; `metadata` is asked at every call, None: this one has none."""
        self._channel = channel
        self._metadata = metadata

    async def __aenter__(self) -> CarryingChannel:
        """Itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        """Closes it."""
        await self.close()
        return None

    async def close(self, grace: float | None = None) -> None:
        """Ends every call and the connection."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns when the connection's state is another one."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Returns when it is connected."""
        await self._channel.channel_ready()

    def unary_unary(self, *arguments: object, **named: object) -> grpc.aio.UnaryUnaryMultiCallable[object, object]:  # type: ignore[override]
        """As of every channel; its calls carry the metadata."""
        return cast("grpc.aio.UnaryUnaryMultiCallable[object, object]", self._carrying(self._channel.unary_unary, arguments, named))

    def unary_stream(self, *arguments: object, **named: object) -> grpc.aio.UnaryStreamMultiCallable[object, object]:  # type: ignore[override]
        """As of every channel; its calls carry the metadata."""
        return cast("grpc.aio.UnaryStreamMultiCallable[object, object]", self._carrying(self._channel.unary_stream, arguments, named))

    def stream_unary(self, *arguments: object, **named: object) -> grpc.aio.StreamUnaryMultiCallable[object, object]:  # type: ignore[override]
        """As of every channel; its calls carry the metadata."""
        return cast("grpc.aio.StreamUnaryMultiCallable[object, object]", self._carrying(self._channel.stream_unary, arguments, named))

    def stream_stream(self, *arguments: object, **named: object) -> grpc.aio.StreamStreamMultiCallable[object, object]:  # type: ignore[override]
        """As of every channel; its calls carry the metadata."""
        return cast("grpc.aio.StreamStreamMultiCallable[object, object]", self._carrying(self._channel.stream_stream, arguments, named))

    def _carrying(self, make: Callable[..., Callable[..., object]], arguments: tuple[object, ...], named: dict[str, object]) -> object:
        method, own_metadata = make(*arguments, **named), self._metadata

        def call(*sent: object, metadata: Iterable[tuple[str, str | bytes]] | None = None, **options: object) -> object:
            own = own_metadata()
            if metadata is not None and own is not None:
                own = grpc.aio.Metadata(*own, *metadata)
            return method(*sent, metadata=metadata if own is None else own, **options)

        return call


class TokenChannel(CarryingChannel):
    """Every call is made with `authorization: Bearer TOKEN`."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        """Owns the channel from now on."""
        own = grpc.aio.Metadata(("authorization", f"Bearer {token}"))
        super().__init__(channel, lambda: own)
