"""Counts the ends of pipeline processes that nobody asked for: how long to wait before the next start, and what failed starts say."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from runtime.lane.child_process import Exit
from runtime.lane.child_protocol import LoadFailed
from runtime.lane.start_failure import StartCause, StartFailure, one_line

_UNHEALTHY_AFTER = 3
"""So many processes in a row that died make the lane unhealthy."""
_PROVEN_S = 60.0
"""A process that was warm for so long counts as a good one: its death begins a new count."""
_BACKOFF_MIN_S = 0.5
_BACKOFF_MAX_S = 30.0
_BACKOFF_DOUBLINGS = 6
"""As many as it takes to come to the longest pause."""


def told_end(end: Exit | OSError, said: LoadFailed | None, *, is_starved: bool) -> tuple[StartCause, str]:
    """Why a process ended, for programs and for operators.

    Args:
        end: how it ended; an OSError when it could not be started.
        said: what it, or the agent that killed it, said of that; this comes before how it went.
        is_starved: the kernel killed processes meanwhile because the machine's memory ran out.
    """
    if said is not None:
        return said.cause, one_line(said.reason)
    if isinstance(end, OSError):
        cause = StartCause.HOST_MEMORY if end.errno == errno.ENOMEM else StartCause.OTHER
        return cause, one_line(f"the pipeline's process could not be started: {end}")
    if end.code == -signal.SIGKILL and is_starved:
        return StartCause.HOST_MEMORY, f"the kernel killed the pipeline's process (signal {-end.code}): the machine's memory ran out"
    return StartCause.PROCESS_DIED, f"the pipeline's process ended: {end}"


class Streak:
    """The processes of one lane, one after another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """No process yet. `clock` gives monotonic seconds."""
        self._clock = clock
        self._started_s = 0.0
        self._warm_since_s: float | None = None
        self._deaths = 0
        self._failed_starts = 0

    @property
    def lived_s(self) -> float:
        """Since the newest process was started."""
        return self._clock() - self._started_s

    @property
    def is_long(self) -> bool:
        """So many processes died in a row that the lane is not healthy."""
        return self._deaths >= _UNHEALTHY_AFTER

    def started(self) -> None:
        """A process is being started."""
        self._started_s, self._warm_since_s = self._clock(), None

    def warmed(self) -> bool:
        """It can render; whether this is new."""
        is_new = self._warm_since_s is None
        if is_new:
            self._warm_since_s, self._failed_starts = self._clock(), 0
        return is_new

    def died(self, cause: StartCause, reason: str) -> tuple[float, StartFailure | None]:
        """It is gone, and nobody asked for that: the pause before the next start, in seconds, and the failure if it never was warm.

        The pause doubles with every death in a row.
        """
        now_s = self._clock()
        is_proven = self._warm_since_s is not None and now_s - self._warm_since_s >= _PROVEN_S
        self._deaths = 1 if is_proven else self._deaths + 1
        # The exponent has a bound: after a day of failures the power would be more than a float can be.
        pause_s = min(_BACKOFF_MIN_S * 2.0 ** min(self._deaths - 1, _BACKOFF_DOUBLINGS), _BACKOFF_MAX_S)
        if self._warm_since_s is not None:
            return pause_s, None
        self._failed_starts += 1
        next_at = datetime.now(UTC) + timedelta(seconds=pause_s)
        return pause_s, StartFailure(cause=cause, reason=reason, attempts=self._failed_starts, next_attempt_at=next_at)
