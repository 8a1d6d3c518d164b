"""The spans of a lane's attempts, made of what the pipeline's process timed and of the attempt's outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from runtime.lane.outcome import FailureCode
from runtime.lane.parts import Part
from runtime.traces import names
from runtime.traces.context import TraceContext, attempt_span_id, derived_span_id, new_span_id
from runtime.traces.tracer import Span, Value

if TYPE_CHECKING:
    from runtime.lane.child_protocol import PartEnded
    from runtime.lane.outcome import MemoryRecord, Outcome
    from runtime.lane.state import Attempt
    from runtime.lane.work import WorkerStatus
    from runtime.traces.tracer import Tracer

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DONE = "done"

_MEMORY = (
    "allocated_bytes", "reserved_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "driver_free_bytes", "pinned_bytes",
    "host_rss_before_bytes", "host_rss_after_bytes", "host_rss_peak_bytes", "drift_bytes",
)  # fmt: skip
"""Of a record, as far as the device can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Traced:
    """An attempt in work that has a trace: where its spans go, and since when it is here."""

    attempt: Attempt
    model: str
    context: TraceContext
    since_ns: int

    @property
    def render_id(self) -> str:
        """Of the span that holds all others of this lane."""
        return derived_span_id(self.context.trace_id, self.attempt.task_id, self.attempt.number, names.RENDER)

    def denoise_id(self, try_number: int) -> str:
        """Of a try's denoising, which is over after its steps."""
        return derived_span_id(self.context.trace_id, self.attempt.task_id, self.attempt.number, Part.DENOISE, try_number)


class AttemptSpans:
    """Implements `runtime.lane.observer.LaneObserver`. Two attempts may be in work at a time; each has its own trace."""

    def __init__(self, tracer: Tracer, lane_id: str, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        """Writes by this tracer for this lane; `now_ns`: nanoseconds since 1970."""
        self._tracer = tracer
        self._lane_id = lane_id
        self._now_ns = now_ns
        self._traced: dict[Attempt, _Traced] = {}

    @property
    def wants_parts(self) -> bool:
        """The parts of attempts are to be timed."""
        return True

    def status_changed(self, status: WorkerStatus) -> None:
        """See `LaneObserver`. A process is of no task."""

    def attempt_started(self, attempt: Attempt, model: str, context: TraceContext | None) -> None:
        """See `LaneObserver`."""
        if context is not None and context.is_sampled:
            self._traced[attempt] = _Traced(attempt=attempt, model=model, context=context, since_ns=self._now_ns())

    def part_ended(self, event: PartEnded) -> None:
        """See `LaneObserver`."""
        traced = self._traced.get(event.attempt)
        if traced is None:
            return
        is_step, is_denoise = event.part is Part.STEP, event.part is Part.DENOISE
        denoise_id = traced.denoise_id(event.try_number) if is_step or is_denoise else ""
        attributes: dict[str, Value] = {names.PREFIX + name: value for name, value in event.figures.items()}
        if event.try_number > 1:
            attributes[names.TRY] = event.try_number
        self._write(
            traced,
            event.part,
            (event.began_ns, event.ended_ns),
            attributes,
            span_id=denoise_id if is_denoise else new_span_id(),
            parent_id=denoise_id if is_step else traced.render_id,
            is_failed=event.has_failed,
        )

    def attempt_ended(self, attempt: Attempt, model: str, steps: int, outcome: Outcome) -> None:
        """See `LaneObserver`."""
        traced = self._traced.pop(attempt, None)
        if traced is None:
            return
        self._cleanup(traced, outcome.memory)
        end = _DONE if outcome.failure is None else outcome.failure.code.value
        self._write(
            traced,
            names.RENDER,
            (traced.since_ns, self._now_ns()),
            {names.END: end, **_figures(outcome)},
            span_id=traced.render_id,
            parent_id=attempt_span_id(traced.context.trace_id, attempt.task_id, attempt.number),
            is_failed=end not in (_DONE, FailureCode.CANCELLED),
        )

    def _cleanup(self, traced: _Traced, record: MemoryRecord) -> None:
        """The record is taken at the end of the cleanup. Of an attempt that nothing was measured of, it says why."""
        attributes: dict[str, Value] = {}
        if record.unmeasured_reason:
            attributes[names.UNMEASURED] = record.unmeasured_reason
        for name in _MEMORY:
            figure = getattr(record, name)
            if figure is not None:
                attributes[names.MEMORY + name] = figure
        ended_ns = (record.measured_at - _EPOCH) // _MICROSECOND * 1000
        began_ns = ended_ns - round((record.cleanup_s or 0.0) * 1e9)
        self._write(traced, names.CLEANUP, (began_ns, ended_ns), attributes, span_id=new_span_id(), parent_id=traced.render_id)

    def _write(
        self,
        traced: _Traced,
        name: str,
        times_ns: tuple[int, int],
        attributes: dict[str, Value],
        *,
        span_id: str,
        parent_id: str,
        is_failed: bool = False,
    ) -> None:
        of_attempt: dict[str, Value] = {
            names.TASK: traced.attempt.task_id,
            names.ATTEMPT: traced.attempt.number,
            names.LANE: self._lane_id,
            names.MODEL: traced.model,
        }
        began_ns, ended_ns = times_ns
        self._tracer.write(
            Span(
                name=name,
                context=traced.context.at(span_id),
                parent_id=parent_id,
                began_ns=began_ns,
                ended_ns=ended_ns,
                attributes=of_attempt | attributes,
                is_failed=is_failed,
            )
        )


def _figures(outcome: Outcome) -> dict[str, Value]:
    """What is said of the attempt as a whole."""
    record = outcome.memory
    known: dict[str, Value | None] = {
        "device": record.device or None,
        "placement": record.placement or None,
        "predicted_peak_bytes": record.predicted_peak_bytes or None,
        "measured_peak_bytes": max((one.peak_bytes for one in record.phase_peaks), default=None),
        "out_of_memory": ",".join(f"{one.phase}:{one.placement}" for one in record.out_of_memory) or None,
        "render_s": outcome.render_s,
        "denoise_s": outcome.denoise_s,
    }
    return {names.PREFIX + name: value for name, value in known.items() if value is not None}
