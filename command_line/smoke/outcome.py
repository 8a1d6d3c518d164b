"""What one check found, and how a check says that it failed or could not be made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One line of the report.

    Attributes:
        detail: what was found; of a skipped check, why.
        advice: what to do; empty unless it failed.
        duration_s: how long it took.
    """

    name: str
    outcome: Outcome
    detail: str
    advice: str = ""
    duration_s: float = 0.0


class CheckFailedError(Exception):
    """The deployment does not do what it must."""

    def __init__(self, problem: str, advice: str) -> None:
        """What is wrong, and what to do about it; a sentence each."""
        super().__init__(problem)
        self.problem = problem
        self.advice = advice


class CheckSkippedError(Exception):
    """The check could not be made; the text says why."""
