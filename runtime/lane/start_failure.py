"""Why a pipeline's process cannot start or become warm: a cause that programs can tell apart, and a sentence for operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

_LONGEST_REASON = 350
"""Characters. Admission keeps 500 of the lane's whole sentence."""


class StartCause(StrEnum):
    """What kind of failure it was."""

    WEIGHTS_MISSING = "weights_missing"
    WEIGHTS_UNUSABLE = "weights_unusable"
    HOST_MEMORY = "host_memory"
    GPU_MEMORY = "gpu_memory"
    DEVICE = "device"
    DEADLINE = "deadline"
    PROCESS_DIED = "process_died"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFailure:
    """The lane cannot become warm, and tries again.

    Attributes:
        cause: of the last try.
        reason: of the last try; a sentence for operators.
        attempts: tries that failed in a row.
        next_attempt_at: aware UTC; when the next one begins, or began.
    """

    cause: StartCause
    reason: str
    attempts: int
    next_attempt_at: datetime

    def __str__(self) -> str:
        """For operators."""
        return f"{self.reason} (try {self.attempts} failed; the next at {self.next_attempt_at:%H:%M:%S} UTC)"


class StartError(Exception):
    """The pipeline's process cannot start; the text is for operators."""

    def __init__(self, reason: str, cause: StartCause) -> None:
        """Keeps both."""
        super().__init__(reason)
        self.cause = cause


@contextmanager
def starting(cause: StartCause, summary: str = "") -> Iterator[None]:
    """Whatever goes wrong within is a StartError of this cause. With a summary, of what was raised only the kind is told."""
    try:
        yield
    except Exception as error:
        raise StartError(f"{summary} ({type(error).__name__})" if summary else reason_of(error), cause) from error


def reason_of(error: BaseException) -> str:
    """The error as a sentence for operators: on one line, and not too long."""
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
    """The text without line breaks and control characters, cut where it is too long."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= _LONGEST_REASON else words[: _LONGEST_REASON - 1] + "…"
