"""The spans that a lane writes of its attempts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runtime.lane.child_protocol import PartEnded
from runtime.lane.outcome import (
    Failure,
    FailureCode,
    MemoryRecord,
    Outcome,
    OutOfMemory,
    PhasePeak,
    StoredVideo,
    unmeasured,
)
from runtime.lane.parts import Figure, Part
from runtime.lane.spans import AttemptSpans
from runtime.lane.state import Attempt
from runtime.traces import names
from runtime.traces.context import TraceContext, attempt_span_id
from tests.unit.traces.known import ATTRIBUTES
from tests.unit.traces.spans import CONTEXT, Kept

LANE = "lane-anisora"
FIRST, SECOND = Attempt(task_id="1" * 32, number=1), Attempt(task_id="2" * 32, number=3)
OTHER = CONTEXT._replace(trace_id="f" * 32, state="")
SECOND_NS = 10**9
RECORD = MemoryRecord(
    measured_at=datetime(1970, 1, 1, 0, 0, 8, tzinfo=UTC),
    device="cpu",
    cleanup_s=2.0,
    allocated_bytes=11,
    host_rss_after_bytes=17,
    placement="resident",
    predicted_peak_bytes=100,
    phase_peaks=(PhasePeak(phase="denoise", peak_bytes=90), PhasePeak(phase="decode", peak_bytes=40)),
    out_of_memory=(OutOfMemory(phase="denoise", placement="resident_all"),),
)
RESULT = StoredVideo(
    video_key="v", media_type="video/mp4", size_bytes=1, sha256="0", preview_key="p", width=256, height=256, num_frames=9, fps=16
)
DONE = Outcome(result=RESULT, memory=RECORD, render_s=7.0, denoise_s=4.0)


class Clock:
    """Nanoseconds that the test says."""

    def __init__(self) -> None:
        self.now_s = 1.0

    def now_ns(self) -> int:
        return int(self.now_s * SECOND_NS)


@pytest.fixture
def tracer() -> Kept:
    """Keeps what is written."""
    return Kept()


@pytest.fixture
def clock() -> Clock:
    """Stands at the first second of 1970."""
    return Clock()


@pytest.fixture
def spans(tracer: Kept, clock: Clock) -> AttemptSpans:
    """Of a lane."""
    return AttemptSpans(tracer, LANE, now_ns=clock.now_ns)


def _part(attempt: Attempt, part: Part, *, try_number: int = 1, has_failed: bool = False, **figures: Figure) -> PartEnded:
    return PartEnded(attempt=attempt, part=part, try_number=try_number, began_ns=2, ended_ns=3, figures=figures, has_failed=has_failed)


def test_parts_hang_below_the_render_and_steps_below_the_denoising(spans: AttemptSpans, tracer: Kept) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    spans.part_ended(_part(FIRST, Part.STEP, step=1, steps=2))
    spans.part_ended(_part(FIRST, Part.STEP, step=2, steps=2))
    spans.part_ended(_part(FIRST, Part.DENOISE, placement="resident"))
    spans.part_ended(_part(FIRST, Part.UPLOAD, video_bytes=5))
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    one, two, denoise, upload, cleanup, render = tracer.spans
    assert one.parent_id == two.parent_id == denoise.context.span_id
    assert one.context.span_id != two.context.span_id
    assert denoise.parent_id == upload.parent_id == cleanup.parent_id == render.context.span_id
    assert render.parent_id == attempt_span_id(CONTEXT.trace_id, FIRST.task_id, 1)
    assert {(span.context.trace_id, span.context.state) for span in tracer.spans} == {(CONTEXT.trace_id, CONTEXT.state)}
    assert {(span.attributes[names.TASK], span.attributes[names.LANE]) for span in tracer.spans} == {(FIRST.task_id, LANE)}
    assert two.attributes["warmlane.step"] == 2
    assert {name for span in tracer.spans for name in span.attributes} <= ATTRIBUTES


def test_the_render_lasts_from_the_lease_to_the_end_and_says_what_came_of_it(spans: AttemptSpans, tracer: Kept, clock: Clock) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    clock.now_s = 9.5
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    render = tracer.one(names.RENDER)
    assert (render.began_ns, render.ended_ns, render.is_failed) == (SECOND_NS, int(9.5 * SECOND_NS), False)
    assert render.attributes == {
        names.TASK: FIRST.task_id, names.ATTEMPT: 1, names.LANE: LANE, names.MODEL: "anisora", names.END: "done",
        "warmlane.device": "cpu", "warmlane.placement": "resident", "warmlane.predicted_peak_bytes": 100,
        "warmlane.measured_peak_bytes": 90, "warmlane.out_of_memory": "denoise:resident_all", "warmlane.render_s": 7.0,
        "warmlane.denoise_s": 4.0,
    }  # fmt: skip


def test_the_cleanup_has_the_figures_that_the_device_told(spans: AttemptSpans, tracer: Kept) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    cleanup = tracer.one(names.CLEANUP)
    assert (cleanup.began_ns, cleanup.ended_ns) == (6 * SECOND_NS, 8 * SECOND_NS)
    memory = {name: value for name, value in cleanup.attributes.items() if name.startswith(names.MEMORY)}
    assert memory == {"warmlane.memory.allocated_bytes": 11, "warmlane.memory.host_rss_after_bytes": 17}


@pytest.mark.parametrize(("code", "is_failed"), [(FailureCode.LANE_LOST, True), (FailureCode.CANCELLED, False)])
def test_the_end_says_why_when_nothing_was_measured(spans: AttemptSpans, tracer: Kept, code: FailureCode, is_failed: bool) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    outcome = Outcome(failure=Failure(code=code, message="No."), memory=unmeasured("the process ended: exit code 1"))
    spans.attempt_ended(FIRST, "anisora", 8, outcome)
    render = tracer.one(names.RENDER)
    assert (render.attributes[names.END], render.is_failed) == (code, is_failed)
    assert tracer.one(names.CLEANUP).attributes[names.UNMEASURED] == "the process ended: exit code 1"


def test_each_attempt_keeps_to_its_own_trace_when_one_is_finished_beside_the_other(spans: AttemptSpans, tracer: Kept) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    spans.attempt_started(SECOND, "phr00t", OTHER)
    spans.part_ended(_part(SECOND, Part.STEP, step=1, steps=4))
    spans.part_ended(_part(FIRST, Part.ENCODE, frames=9))
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    spans.part_ended(_part(SECOND, Part.DENOISE))
    spans.attempt_ended(SECOND, "phr00t", 4, DONE)
    for attempt, context in ((FIRST, CONTEXT), (SECOND, OTHER)):
        own = [span for span in tracer.spans if span.attributes[names.TASK] == attempt.task_id]
        assert {span.context.trace_id for span in own} == {context.trace_id}
        assert {span.attributes[names.ATTEMPT] for span in own} == {attempt.number}
    assert len({span.context.span_id for span in tracer.spans}) == len(tracer.spans) == 7


def test_tries_are_told_apart_when_the_memory_ran_out(spans: AttemptSpans, tracer: Kept) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    spans.part_ended(_part(FIRST, Part.DENOISE, has_failed=True))
    spans.part_ended(_part(FIRST, Part.STEP, try_number=2))
    spans.part_ended(_part(FIRST, Part.DENOISE, try_number=2))
    first, step, second = tracer.spans
    assert (first.is_failed, second.is_failed) == (True, False)
    assert first.context.span_id != second.context.span_id == step.parent_id
    assert names.TRY not in first.attributes
    assert second.attributes[names.TRY] == 2


@pytest.mark.parametrize("context", [None, CONTEXT._replace(is_sampled=False)])
def test_nothing_is_written_when_the_task_has_no_sampled_trace(spans: AttemptSpans, tracer: Kept, context: TraceContext | None) -> None:
    spans.attempt_started(FIRST, "anisora", context)
    spans.part_ended(_part(FIRST, Part.DENOISE))
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    assert tracer.spans == []


def test_nothing_is_written_of_an_attempt_that_is_over(spans: AttemptSpans, tracer: Kept) -> None:
    spans.attempt_started(FIRST, "anisora", CONTEXT)
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    tracer.spans.clear()
    spans.part_ended(_part(FIRST, Part.UPLOAD))
    spans.attempt_ended(FIRST, "anisora", 8, DONE)
    assert tracer.spans == []
