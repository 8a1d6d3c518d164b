"""Time at the door: one read gives both the time that decides and the time for people."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from runtime.values import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One read of the clock.

    Attributes:
        monotonic_s: seconds since an arbitrary start, never going back; it decides.
        utc: aware UTC time; for people and for what must survive a restart.
    """

    monotonic_s: float
    utc: datetime


class Clock(Protocol):
    """Reads the time."""

    def now(self) -> Reading:
        """The time, both kinds at one instant."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Reading:
        """The time, both kinds at one instant."""
        return Reading(monotonic_s=time.monotonic(), utc=datetime.now(UTC))
