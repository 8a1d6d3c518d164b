"""How the bridge waits for admission: one timeout and one kind of error for every call."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import grpc

from runtime.rpc_errors import service_error

_Reply = TypeVar("_Reply")

CALL_TIMEOUT_S = 10.0
"""Reads and small writes answer within milliseconds; the rest is for a disk that stalls."""


async def answer(call: Awaitable[_Reply]) -> _Reply:
    """The reply of a call. Raises `runtime.errors.ServiceError` instead of gRPC's own error."""
    try:
        return await call
    except grpc.RpcError as error:
        raise service_error(error) from error
