"""The errors that cross a process boundary: the design's codes with everything a client may be told."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.rules.request import Violation


class ErrorCode(StrEnum):
    """The codes of refusals. On the wire they are upper case, as the reason of google.rpc.ErrorInfo."""

    VALIDATION_ERROR = "validation_error"
    VRAM_EXCEEDED = "vram_exceeded"
    DEADLINE_UNREACHABLE = "deadline_unreachable"
    QUEUE_OVERLOADED = "queue_overloaded"
    TASK_NOT_FOUND = "task_not_found"
    TASK_NOT_DONE = "task_not_done"
    LANE_NOT_FOUND = "lane_not_found"
    CHANNELZ_NOT_FOUND = "channelz_not_found"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    RATE_LIMITED = "rate_limited"
    SERVICE_UNAVAILABLE = "service_unavailable"
    INVALID_REPORT = "invalid_report"
    PROTOCOL_VERSION_UNSUPPORTED = "protocol_version_unsupported"
    SESSION_ENDED = "session_ended"
    STREAM_RECYCLED = "stream_recycled"
    INTERNAL = "internal"


class ServiceError(Exception):
    """A refusal that a client is told. Raised in a service's handler, it becomes a gRPC status with rich details (`runtime.rpc_errors`).

    Attributes:
        code: one of `ErrorCode`; a newer server may send another one.
        message: a sentence that is safe to show: no path, no prompt, no trace.
        metadata: facts for programs, such as `depth` or `max_depth`.
        retry_after_s: when a retry may succeed; None when it is not a matter of time.
        violations: what is wrong with which field, for `validation_error`.
    """

    def __init__(
        self,
        *,
        code: str,
        message: str,
        metadata: Mapping[str, str] = MappingProxyType({}),
        retry_after_s: float | None = None,
        violations: tuple[Violation, ...] = (),
    ) -> None:
        """Keeps what the client is told."""
        super().__init__(f"{code}: {message}")
        self.code = str(code)
        self.message = message
        self.metadata = dict(metadata)
        self.retry_after_s = retry_after_s
        self.violations = violations
