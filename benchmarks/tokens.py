"""`python -m benchmarks.tokens`: what tokens cost a call in Python, in microseconds: the server's check, and showing one.

The wire is not in it: some 70 bytes more in each call's head, which gRPC's C library writes and reads.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio

from runtime.guard import Guard
from runtime.roles import Role
from runtime.rpc_handlers import PlainServer, Told
from runtime.token_channel import TokenChannel

_METHOD = "/warmlane.admission.v1.AdmissionService/SubmitTask"
_ROUNDS, _CALLS = 9, 20_000


@dataclass(frozen=True, slots=True)
class _Details:
    """What gRPC hands to a server for each call."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...]


class _Registered:
    """Keeps the handlers that a server would get."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        self.handlers += handlers


class _Silent:
    """A channel whose calls do nothing."""

    def unary_unary(self, _method: str) -> Callable[..., None]:
        return lambda _request, **_options: None


async def _answer(_request: bytes, _context: object) -> bytes:
    return b""


def _served(guard: Guard | None) -> grpc.GenericRpcHandler:
    registered = _Registered()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"SubmitTask": grpc.unary_unary_rpc_method_handler(_answer)}
    service, name = _METHOD[1:].split("/")
    assert name in handlers
    server = PlainServer(cast("grpc.aio.Server", registered), Told(), guard)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    return registered.handlers[0]


def _least_us(call: Callable[[], object]) -> float:
    """Of many rounds the quickest: what else the machine does makes none quicker."""
    least_s = float("inf")
    for _ in range(_ROUNDS):
        started_s = time.perf_counter()
        for _ in range(_CALLS):
            call()
        least_s = min(least_s, (time.perf_counter() - started_s) / _CALLS)
    return least_s * 1e6


def measure() -> dict[str, float]:
    """All figures: two tokens of each of the four roles, and a caller that shows the last of them."""
    tokens = {role: (secrets.token_hex(32), secrets.token_hex(32)) for role in Role}
    shown = tokens[Role.OPERATOR][1]
    agent = ("user-agent", "grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)")
    details = cast("grpc.HandlerCallDetails", _Details(_METHOD, (agent, ("authorization", f"Bearer {shown}"))))
    served, guarded = _served(None), _served(Guard(tokens))
    assert served.service(details) is not None
    plain = cast("grpc.aio.Channel", _Silent())
    call: Callable[..., object] = plain.unary_unary(_METHOD)
    showing: Callable[..., object] = TokenChannel(plain, shown).unary_unary(_METHOD)
    return {
        "server_without_tokens_us": _least_us(lambda: served.service(details)),
        "server_with_tokens_us": _least_us(lambda: guarded.service(details)),
        "caller_without_token_us": _least_us(lambda: call(b"", timeout=1.0)),
        "caller_with_token_us": _least_us(lambda: showing(b"", timeout=1.0)),
    }


if __name__ == "__main__":
    for name, value in measure().items():
        print(f"{name:28} {value:8.2f}")
