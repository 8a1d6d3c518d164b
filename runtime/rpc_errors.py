"""Refusals on the wire: the one translation of ServiceError to a gRPC status with rich details, and back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NoReturn, Protocol, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from runtime.errors import ErrorCode, ServiceError
from runtime.rules.request import Violation

ERROR_DOMAIN = "warmlane"

_DETAILS_KEY = "grpc-status-details-bin"
# Peers may drop the headers of an answer from 8 KiB on (base64 adds a third to this), and the message travels a second time beside it.
_MAX_STATUS_BYTES = 4_500
_MAX_SENTENCE = 500

_STATUS: Mapping[str, grpc.StatusCode] = {
    ErrorCode.VALIDATION_ERROR: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.VRAM_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.DEADLINE_UNREACHABLE: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.QUEUE_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.TASK_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.TASK_NOT_DONE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.LANE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.CHANNELZ_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.INVALID_REPORT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.PROTOCOL_VERSION_UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.SESSION_ENDED: grpc.StatusCode.ABORTED,
    ErrorCode.STREAM_RECYCLED: grpc.StatusCode.ABORTED,
    ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}

# A status without ErrorInfo was made by gRPC itself. These come and go with connections; all others are somebody's bug.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class RpcContext(Protocol):
    """The part of a handler's context that refusing needs."""

    async def abort(self, code: grpc.StatusCode, details: str = ..., trailing_metadata: tuple[tuple[str, bytes], ...] = ...) -> NoReturn:
        """Ends the call; raises."""
        ...


async def abort(context: RpcContext, error: ServiceError) -> NoReturn:
    """Ends the call with the error's gRPC status, carrying ErrorInfo (domain `warmlane`), BadRequest and RetryInfo where they apply."""
    code, message, details = _status_of(error)
    await context.abort(code, message, ((_DETAILS_KEY, details),))


def to_status(error: ServiceError) -> tuple[grpc.StatusCode, bytes]:
    """What `abort` would end a call with: its status, and the google.rpc.Status with all details, serialized."""
    code, _, details = _status_of(error)
    return code, details


def of_status(details: bytes) -> ServiceError:
    """What was meant, from such a serialized google.rpc.Status."""
    try:
        told = _from_details(status_pb2.Status.FromString(details))
    except DecodeError:
        told = None
    return told or ServiceError(code=ErrorCode.INTERNAL, message="The service refused, and did not say why.")


def service_error(error: grpc.RpcError) -> ServiceError:
    """What the server meant, from the error of a call.

    What gRPC itself made becomes `service_unavailable`, or `internal` when waiting cannot help.
    """
    call = cast("grpc.aio.AioRpcError", error)
    code = call.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    rich = _details_of(call) if hasattr(error, "trailing_metadata") else None
    told = _from_details(rich) if rich is not None else None
    if told is not None:
        return told
    name = code.name.lower()
    if code in _PASSING:
        return ServiceError(
            code=ErrorCode.SERVICE_UNAVAILABLE,
            message=f"The service did not answer ({name}).",
            metadata={"grpc_status": name},
            retry_after_s=1.0,
        )
    return ServiceError(code=ErrorCode.INTERNAL, message=f"The service failed ({name}).", metadata={"grpc_status": name})


def _status_of(error: ServiceError) -> tuple[grpc.StatusCode, str, bytes]:
    encode = _encoded if error.violations else _remembered
    return encode(error.code, error.message, tuple(error.metadata.items()), error.retry_after_s, error.violations)


def _encoded(
    reason: str, message: str, metadata: tuple[tuple[str, str], ...], retry_after_s: float | None, violations: tuple[Violation, ...]
) -> tuple[grpc.StatusCode, str, bytes]:
    """Code, message and serialized google.rpc.Status of a refusal."""
    code = _STATUS.get(reason, grpc.StatusCode.UNKNOWN)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason.upper(), domain=ERROR_DOMAIN, metadata=dict(metadata))]
    if retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(retry_after_s * 1000))
        details.append(retry)
    status = status_pb2.Status(code=code.value[0], message=_cut(message), details=[_packed(detail) for detail in details])
    if violations:
        status.details.append(_packed(_bad_request(violations, _MAX_STATUS_BYTES - status.ByteSize())))
    return code, status.message, status.SerializeToString()


# An overloaded queue gives thousands of answers a second, of which few differ.
_remembered = lru_cache(maxsize=256)(_encoded)


def _bad_request(violations: tuple[Violation, ...], room_bytes: int) -> error_details_pb2.BadRequest:
    """As many violations as fit, and how many more there are."""
    told = error_details_pb2.BadRequest()
    for index, violation in enumerate(violations):
        told.field_violations.add(field=violation.field, description=_cut(violation.message))
        left = len(violations) - index
        if told.ByteSize() > room_bytes and index > 0:
            del told.field_violations[index]
            told.field_violations.add(field=violation.field, description=f"This and {left - 1} more are wrong too.")
            break
    return told


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= _MAX_SENTENCE else sentence[: _MAX_SENTENCE - 1] + "…"


def _details_of(call: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _from_details(status: status_pb2.Status) -> ServiceError | None:
    """None when no ErrorInfo of ours is in it."""
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    retry_after_s = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif not detail.Unpack(info):
            detail.Unpack(bad)
    if info.domain != ERROR_DOMAIN or not info.reason:
        return None
    return ServiceError(
        code=info.reason.lower(),
        message=status.message,
        metadata=dict(info.metadata),
        retry_after_s=retry_after_s,
        violations=tuple(Violation(field=one.field, message=one.description) for one in bad.field_violations),
    )
