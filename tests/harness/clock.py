"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runtime.clock import Reading


class FakeClock:
    """Starts at monotonic 1000 s and 2026-01-01 00:00 UTC."""

    def __init__(self) -> None:
        """Stands at its start."""
        self._elapsed_s = 0.0

    def now(self) -> Reading:
        """The time it was moved to."""
        start = datetime(2026, 1, 1, tzinfo=UTC)
        return Reading(monotonic_s=1000.0 + self._elapsed_s, utc=start + timedelta(seconds=self._elapsed_s))

    def advance(self, seconds: float) -> None:
        """Moves it forward."""
        self._elapsed_s += seconds
