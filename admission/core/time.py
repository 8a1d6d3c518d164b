"""The time of an event: monotonic time decides, UTC is for people and for what survives a restart."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from runtime.values import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Read once per event, at the door. At exactly a limit, expiry wins."""

    monotonic_s: float
    utc: datetime

    def monotonic_of(self, moment: datetime) -> float:
        """Where a stored UTC moment lies on this process's monotonic axis."""
        return self.monotonic_s - (self.utc - moment).total_seconds()

    def since_of(self, moment: datetime) -> float:
        """As `monotonic_of`, of something that has happened: never later than now, however the UTC clock was set meanwhile."""
        return min(self.monotonic_s, self.monotonic_of(moment))
