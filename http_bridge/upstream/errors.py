"""What a client is told when an upstream refuses, fails or is silent: the contract's envelope, and nothing of our key there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import structlog

from http_bridge.errors import HttpError
from runtime.errors import ErrorCode

_LOG = structlog.get_logger()

_RETRY_S = 5.0
_MOST_RETRY_S = 86_400
_LONGEST_SENTENCE = 1000

# Codes of the contract that speak of the request or of the upstream's load. Others speak of who calls, which there is the bridge.
_PASSED = frozenset(
    {
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.VRAM_EXCEEDED,
        ErrorCode.DEADLINE_UNREACHABLE,
        ErrorCode.QUEUE_OVERLOADED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.SERVICE_UNAVAILABLE,
        "model_unavailable",
        "payload_too_large",
        "request_timeout",
        "bad_request",
    }
)
# Only of a call that names a task.
_PASSED_OF_A_TASK = frozenset({ErrorCode.TASK_NOT_FOUND, ErrorCode.TASK_NOT_DONE, "result_not_found"})
_OF_STATUS: Mapping[int, str] = MappingProxyType({408: "request_timeout", 413: "payload_too_large", 429: ErrorCode.RATE_LIMITED.value})
_OF_STATUS_OF_A_TASK: Mapping[int, str] = MappingProxyType({404: ErrorCode.TASK_NOT_FOUND.value, 425: ErrorCode.TASK_NOT_DONE.value})
# The path itself is not there, or not for this method: the base URL leads elsewhere.
_NO_SUCH_PATH = frozenset({404, 405, 410})
_SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        ErrorCode.TASK_NOT_FOUND: "There is no such task.",
        ErrorCode.TASK_NOT_DONE: "The task is not done yet.",
        ErrorCode.RATE_LIMITED: "The {name} server takes no more requests now.",
        "request_timeout": "The {name} server did not get the whole request in time.",
        "payload_too_large": "The request is too large for the {name} server.",
        "bad_request": "The {name} server refused the request.",
    }
)


def away(name: str) -> HttpError:
    """The upstream does not answer."""
    return HttpError(ErrorCode.SERVICE_UNAVAILABLE, f"The {name} server does not answer.", retry_after_s=_RETRY_S)


def not_understood(name: str, what: str) -> HttpError:
    """The upstream answered with something that is not in the contract; `what` it was is for the log only."""
    _LOG.error("upstream_reply_not_understood", upstream=name, reply=what)
    return HttpError(ErrorCode.SERVICE_UNAVAILABLE, f"The {name} server gave an answer that makes no sense.", retry_after_s=_RETRY_S)


def refusal(name: str, status: int, body: object, *, retry_after: str | None = None, of_task: bool = False) -> HttpError:
    """What the client is told instead of a reply with this status and body.

    `of_task`: the call named a task, which may be what is missing.
    """
    wait_s = _seconds(retry_after)
    if status in (401, 403):
        # The credential that was refused is ours: the client can do nothing, the operator must.
        _LOG.error("upstream_refused_our_key", upstream=name, status=status, setting=f"WARMLANE_{name.upper()}_UPSTREAM_KEY")
        return HttpError(ErrorCode.SERVICE_UNAVAILABLE, f"The {name} server cannot be used now.", retry_after_s=60)
    told = _envelope(body, of_task=of_task)
    if told is not None:
        return _passed_on(told, wait_s)
    code = _code(status, of_task=of_task)
    if code is None:
        _LOG.warning("upstream_failed", upstream=name, status=status)
        return HttpError(ErrorCode.SERVICE_UNAVAILABLE, f"The {name} server failed.", retry_after_s=wait_s or _RETRY_S)
    return HttpError(code, _SENTENCES[code].format(name=name), retry_after_s=wait_s)


def _code(status: int, *, of_task: bool) -> str | None:
    """Of a refusal without an envelope; None: the upstream failed."""
    if of_task and status in _OF_STATUS_OF_A_TASK:
        return _OF_STATUS_OF_A_TASK[status]
    if status in _NO_SUCH_PATH or not 400 <= status < 500:
        return None
    return _OF_STATUS.get(status, "bad_request")


def _envelope(body: object, *, of_task: bool) -> Mapping[str, object] | None:
    """The inside of the contract's envelope when its code is one to pass on."""
    inside = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(inside, dict) or not isinstance(inside.get("detail"), str):
        return None
    code = inside.get("code")
    passed = _PASSED | _PASSED_OF_A_TASK if of_task else _PASSED
    return inside if isinstance(code, str) and code in passed else None


def _passed_on(told: Mapping[str, object], wait_s: float | None) -> HttpError:
    metadata, action = told.get("metadata"), told.get("user_action")
    return HttpError(
        str(told["code"]),
        str(told["detail"])[:_LONGEST_SENTENCE],
        metadata=metadata if isinstance(metadata, dict) else None,
        retry_after_s=wait_s,
        user_action=action[:_LONGEST_SENTENCE] if isinstance(action, str) else None,
    )


def _seconds(retry_after: str | None) -> float | None:
    """Seconds only: a date would be one of the upstream's clock."""
    try:
        seconds = float(retry_after) if retry_after is not None else math.nan
    except ValueError:
        return None
    return min(seconds, _MOST_RETRY_S) if seconds >= 0 else None
