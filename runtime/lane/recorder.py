"""Cleans up after every attempt and takes its memory record: what the device and the host tell, and what an earlier attempt left."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from runtime.fit.placement import BY_NAME, Weights
from runtime.lane.memory.process import host_rss_bytes, host_rss_peak_bytes
from runtime.lane.outcome import MemoryRecord, unmeasured

if TYPE_CHECKING:
    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.run import Run

_log = structlog.get_logger()


class MemoryRecorder:
    """Takes the records of a process's attempts, one after another. One thread uses it."""

    def __init__(self, memory: DeviceMemory) -> None:
        """No attempt was seen yet."""
        self._memory = memory
        self._least_bytes: dict[tuple[str, bool], int] = {}
        self.is_lost = False
        """The device no longer answers: this process must be replaced."""

    def record(self, run: Run, *, model: str, rss_before_bytes: int, has_failed: bool) -> MemoryRecord:
        """Cleans up and measures; a device that does not answer gives an unmeasured record.

        Args:
            run: the attempt; nothing of its render is referenced any more.
            model: resident now; empty when none is.
            rss_before_bytes: of this process before the attempt.
            has_failed: it did not end with files.
        """
        started_s = time.monotonic()
        try:
            # What is open still was left by an error.
            run.end_phase(has_failed=has_failed)
            self._memory.cleanup()
            figures = self._memory.figures()
            drift_bytes = self._drift_bytes(run, model, has_failed=has_failed)
        except Exception as error:
            _log.error("device_lost", error=type(error).__name__, reason=str(error))
            self.is_lost = True
            return unmeasured(f"the device did not answer after the attempt ({type(error).__name__})")
        return MemoryRecord(
            measured_at=datetime.now(UTC),
            device=self._memory.device,
            allocated_bytes=figures.allocated_bytes,
            reserved_bytes=figures.reserved_bytes,
            peak_allocated_bytes=run.peak_allocated_bytes,
            peak_reserved_bytes=run.peak_reserved_bytes,
            driver_free_bytes=figures.driver_free_bytes,
            pinned_bytes=figures.pinned_bytes,
            host_rss_before_bytes=rss_before_bytes,
            host_rss_after_bytes=host_rss_bytes(),
            host_rss_peak_bytes=host_rss_peak_bytes(),
            cleanup_s=time.monotonic() - started_s,
            residency_change=run.change,
            placement=run.choice.rung.placement if run.choice is not None else "",
            predicted_peak_bytes=run.choice.peak_bytes if run.choice is not None else 0,
            phase_peaks=run.phase_peaks,
            out_of_memory=tuple(run.out_of_memory),
            drift_bytes=drift_bytes,
            text_to_video_weights=run.text_to_video_weights,
        )

    def _drift_bytes(self, run: Run, model: str, *, has_failed: bool) -> int | None:
        """What is alive above the least seen with the same model; None when there is nothing that this attempt could be compared with.

        Attempts that leave the weights on the device are compared with each other, the rest with the rest. Of those that fail on such a
        placement nobody can say which they are.
        """
        keeps_weights = run.choice is not None and BY_NAME[run.choice.rung.placement].weights is Weights.ALL
        if not model or (keeps_weights and has_failed):
            return None
        live_bytes, key = self._memory.live_bytes(), (model, keeps_weights)
        least_bytes = self._least_bytes[key] = min(live_bytes, self._least_bytes.get(key, live_bytes))
        return live_bytes - least_bytes
