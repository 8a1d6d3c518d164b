"""The one translation of admission's own errors into what clients are told."""

from __future__ import annotations

import math

from admission.access_types import RateLimitedError
from admission.engine_types import (
    InvalidReportError,
    NotYetStoredError,
    OverloadedError,
    RefusedError,
    RequestReusedError,
    SessionEndedError,
    UnknownLaneError,
    UnknownTaskError,
)
from admission.service import refusals
from admission.store.port import StaleEpochError, StoreUnavailableError
from runtime.errors import ErrorCode, ServiceError
from runtime.rules.request import InvalidRequestError, Violation

# A full disk or a locked database takes a while; a successor admission serves at once.
_STORE_RETRY_AFTER_S = 5.0
_SUCCESSOR_RETRY_AFTER_S = 1.0

_REUSED = "was used before for another request; send a new one with a new request, or the same request to find its task"


def translate(error: Exception) -> ServiceError | None:
    """What the client is told; None for an error that only the log may tell."""
    match error:
        case InvalidRequestError():
            return invalid(*error.violations)
        case OverloadedError() | RateLimitedError():
            return _exhausted(error)
        case RefusedError():
            return refusals.refused(error.refusal)
        case UnknownTaskError():
            return unknown_task()
        case RequestReusedError():
            return invalid(Violation(field="request_id", message=_REUSED))
        case UnknownLaneError():
            return ServiceError(code=ErrorCode.LANE_NOT_FOUND, message="No lane of this name is known.")
        case StoreUnavailableError():
            return ServiceError(
                code=ErrorCode.SERVICE_UNAVAILABLE,
                message="The state cannot be stored or read now; nothing of this call was done.",
                retry_after_s=_STORE_RETRY_AFTER_S,
            )
        case NotYetStoredError():
            return ServiceError(
                code=ErrorCode.SERVICE_UNAVAILABLE,
                message="The state cannot be stored now; the call will take effect when it can. Look at the task later.",
                retry_after_s=_STORE_RETRY_AFTER_S,
            )
        case StaleEpochError():
            return ServiceError(
                code=ErrorCode.SERVICE_UNAVAILABLE,
                message="Another admission has taken over.",
                metadata={"admission": "superseded"},
                retry_after_s=_SUCCESSOR_RETRY_AFTER_S,
            )
        case InvalidReportError():
            return ServiceError(code=ErrorCode.INVALID_REPORT, message=f"The report makes no sense: {error}")
        case SessionEndedError():
            return ServiceError(code=ErrorCode.SESSION_ENDED, message="A newer stream of this lane took over, or admission stops.")
        case _:
            return None


def invalid(*violations: Violation) -> ServiceError:
    """`validation_error` with everything that is wrong."""
    names = ", ".join(dict.fromkeys(violation.field for violation in violations))
    return ServiceError(code=ErrorCode.VALIDATION_ERROR, message=f"The request is invalid: {names}.", violations=violations)


def _exhausted(error: OverloadedError | RateLimitedError) -> ServiceError:
    if isinstance(error, OverloadedError):
        return _overloaded(error)
    return ServiceError(
        code=ErrorCode.RATE_LIMITED,
        message=f"{error.per_minute} a minute are allowed, and were used up.",
        metadata={"kind": error.kind.value, "per_minute": str(error.per_minute)},
        retry_after_s=whole_seconds(error.retry_after_s),
    )


def whole_seconds(seconds: float) -> float:
    """Upwards: nobody waits by the millisecond, and of thousands of answers a second few then differ."""
    return float(math.ceil(seconds))


def check_sequence(after: int) -> None:
    """Raises `validation_error` for an after_sequence that no event can have."""
    if after < 0:
        raise invalid(Violation(field="after_sequence", message="must be 0 or the sequence of an event"))


def unknown_task() -> ServiceError:
    """`task_not_found`."""
    return ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="There is no such task.")


def _overloaded(error: OverloadedError) -> ServiceError:
    reply = error.reply
    why = "too many requests wait already" if reply.cause == "depth" else "no worker became free in time"
    return ServiceError(
        code=ErrorCode.QUEUE_OVERLOADED,
        message=f"The queue is overloaded: {why}.",
        metadata={
            "cause": reply.cause.value,
            "depth": str(reply.depth),
            "max_depth": str(reply.max_depth),
            "waited_s": f"{reply.waited_s:.3f}",
            "max_wait_s": f"{reply.max_wait_s:.3f}",
        },
        retry_after_s=whole_seconds(reply.retry_after_s),
    )
