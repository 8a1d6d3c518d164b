"""How far a load is: what is told of it, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

_log = structlog.get_logger("runtime.lane.loading")

_TOLD_EVERY_S = 0.5
"""Stages are told at once, bytes at most so often: a load has thousands of tensors, and what reads them should do that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgress:
    """How far a load is.

    Attributes:
        model: empty while the process itself starts and nothing is read yet.
        stage: a short sentence for people.
        read_bytes: of the model's weights, in host memory by now.
        total_bytes: to read; 0 before it is known, and where nothing is read.
    """

    model: str
    stage: str
    read_bytes: int = 0
    total_bytes: int = 0

    @property
    def percent(self) -> int | None:
        """0 to 100, rounded down; None while it is not known."""
        return 100 * self.read_bytes // self.total_bytes if self.total_bytes else None

    def __str__(self) -> str:
        """For people: `loading the high-noise expert, 41 %`."""
        return self.stage if self.percent is None else f"{self.stage}, {self.percent} %"


class LoadTeller:
    """Passes on what one load says of itself. One thread uses it."""

    def __init__(self, model: str, tell: Callable[[LoadProgress], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is told yet. `clock` gives seconds."""
        self._progress = LoadProgress(model=model, stage="")
        self._tell = tell
        self._clock = clock
        self._told_s = 0.0
        self._told_percent: int | None = None

    def stage(self, detail: str) -> None:
        """Something else is being done now: told at once."""
        known = self._progress
        _log.info("loading", model=known.model, stage=detail)
        self._say(LoadProgress(model=known.model, stage=detail, read_bytes=known.read_bytes, total_bytes=known.total_bytes))

    def read(self, read_bytes: int, total_bytes: int) -> None:
        """So much is read: told when that is another percent, and not too often."""
        known = self._progress
        self._progress = LoadProgress(model=known.model, stage=known.stage, read_bytes=read_bytes, total_bytes=total_bytes)
        if self._progress.percent != self._told_percent and self._clock() >= self._told_s + _TOLD_EVERY_S:
            self._say(self._progress)

    def _say(self, progress: LoadProgress) -> None:
        self._progress = progress
        self._told_s, self._told_percent = self._clock(), progress.percent
        self._tell(progress)
