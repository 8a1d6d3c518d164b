"""Tasks, events and lanes for tests: plain ones by builder, any that can exist by hypothesis strategy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from admission.core.lanes import KnownLane, LaneSpec, ModelPolicy
from admission.core.learned import Learned, Place, Rate
from admission.core.tasks import (
    Event,
    Failure,
    FailureCode,
    FallbackReason,
    LaneId,
    LaneMode,
    MemoryRecord,
    Model,
    Result,
    Stage,
    Task,
    TaskId,
    TaskState,
)
from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The time at which tests begin; FakeClock starts there too."""


def at(seconds: float) -> datetime:
    """So many seconds after START."""
    return START + timedelta(seconds=seconds)


def make_task(task_id: str = "task-1", **changes: Any) -> Task:
    """A queued text-to-video task, accepted at START; `changes` are fields of Task."""
    fields: dict[str, Any] = {
        "owner": "session-1",
        "model": Model("anisora"),
        "mode": "t2v",
        "parameters": {"prompt": "a lighthouse at dusk", "width": 512, "height": 512, "num_frames": 17, "seed": 7},
        "tokens": 5 * 32 * 32,
        "state": TaskState.QUEUED,
        "created_at": START,
        "updated_at": START,
        "queued_at": START,
    }
    return Task(task_id=TaskId(task_id), **(fields | changes))


def make_event(event_type: str = "attempt_started", **changes: Any) -> Event:
    """An event of task-1 at START; `changes` are fields of Event."""
    fields: dict[str, Any] = {"created_at": START, "task_id": TaskId("task-1")}
    return Event(event_type=event_type, **(fields | changes))


def make_lane(lane_id: str = "lane-anisora", **changes: Any) -> LaneSpec:
    """A dedicated lane of anisora; `changes` are fields of LaneSpec."""
    fields: dict[str, Any] = {"mode": LaneMode.DEDICATED, "models": (Model("anisora"),), "device": "A10G"}
    return LaneSpec(lane_id=LaneId(lane_id), **(fields | changes))


def make_known_lane(lane_id: str = "lane-anisora", *, is_drained: bool = False, **changes: Any) -> KnownLane:
    """What is kept of a dedicated lane of anisora; `changes` are fields of LaneSpec."""
    return KnownLane(spec=make_lane(lane_id, **changes), is_drained=is_drained)


def texts() -> st.SearchStrategy[str]:
    """Any text that UTF-8 can carry, NUL excepted: PostgreSQL has no NUL and the doors refuse it."""
    return st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


def times() -> st.SearchStrategy[datetime]:
    """Aware UTC times to the microsecond."""
    return st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds must be naive


def json_objects() -> st.SearchStrategy[dict[str, object]]:
    """JSON objects of any shape."""
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts()
    values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3), max_leaves=8)
    return st.dictionaries(texts(), values, max_size=4)


def counts() -> st.SearchStrategy[int]:
    """What a 32-bit column holds, not negative."""
    return st.integers(min_value=0, max_value=2**31 - 1)


def results() -> st.SearchStrategy[Result]:
    """Results with any values."""
    size = st.integers(min_value=0, max_value=2**53)
    return st.builds(
        Result,
        video_key=texts(),
        media_type=texts(),
        size_bytes=size,
        sha256=texts(),
        preview_key=texts(),
        width=counts(),
        height=counts(),
        num_frames=counts(),
        fps=counts(),
    )


def task_ids() -> st.SearchStrategy[TaskId]:
    """Ids of tasks."""
    return st.uuids().map(lambda value: TaskId(value.hex))


def lane_ids() -> st.SearchStrategy[LaneId]:
    """Ids of lanes."""
    return texts().map(LaneId)


@st.composite
def tasks(draw: st.DrawFn, states: st.SearchStrategy[TaskState] | None = None) -> Task:
    """Durable tasks (so never held) with any values in every field; they need not have a history that the core would write."""
    durable = st.sampled_from([state for state in TaskState if state is not TaskState.HELD])
    sizes = st.fixed_dictionaries({"width": counts(), "height": counts()})
    failures = st.builds(Failure, code=st.sampled_from(FailureCode), message=texts())
    return draw(
        st.builds(
            Task,
            task_id=task_ids(),
            owner=texts(),
            model=texts().map(Model),
            mode=texts(),
            parameters=st.builds(lambda more, size: more | size, json_objects(), sizes),
            tokens=st.integers(min_value=0, max_value=2**63 - 1),
            state=durable if states is None else states,
            created_at=times(),
            updated_at=times(),
            queued_at=st.none() | times(),
            leased_at=st.none() | times(),
            attempt=counts(),
            lost_lanes=counts(),
            lane_mode=st.none() | st.sampled_from(LaneMode),
            fallback_reason=st.none() | st.sampled_from(FallbackReason),
            lane_id=st.none() | lane_ids(),
            boot_id=st.none() | texts(),
            is_withdrawn=st.booleans(),
            # With a key of its own per task, since no owner may have one twice.
            request_id=st.just("") | st.uuids().map(lambda value: value.hex),
            fingerprint=texts(),
            progress=st.integers(min_value=0, max_value=100),
            stage=st.sampled_from(Stage),
            stage_detail=texts(),
            failure=st.none() | failures,
            result=st.none() | results(),
            trace=texts(),
        )
    )


@st.composite
def events(draw: st.DrawFn, task_id: TaskId | None = None) -> Event:
    """Events with any values in every field, of this task."""
    records = st.builds(MemoryRecord, unmeasured_reason=texts(), figures=json_objects())
    return draw(
        st.builds(
            Event,
            event_type=texts(),
            created_at=times(),
            value=texts(),
            reason=texts(),
            task_id=st.just(task_id),
            attempt=counts(),
            lane_id=st.none() | lane_ids(),
            model=st.none() | texts().map(Model),
            memory=st.none() | records,
        )
    )


def lanes() -> st.SearchStrategy[KnownLane]:
    """Lanes with any values."""
    specs = st.builds(
        LaneSpec,
        lane_id=lane_ids(),
        mode=st.sampled_from(LaneMode),
        models=st.lists(texts().map(Model), max_size=3).map(tuple),
        device=texts(),
        memory=st.none() | memories(),
    )
    some = st.lists(st.tuples(texts().map(Model), texts()), min_size=1, max_size=3).map(tuple)
    retired = st.fixed_dictionaries({"retired": some, "retired_boot": texts()})
    return st.builds(
        lambda spec, is_drained, out_of_use: KnownLane(spec=spec, is_drained=is_drained, **out_of_use),
        specs,
        st.booleans(),
        st.just({}) | retired,
    )


def memories() -> st.SearchStrategy[WorkerMemory]:
    """What a lane measured, with any values."""
    size = st.integers(min_value=0, max_value=2**53)
    slope = st.floats(min_value=0, max_value=1e12)
    activations = st.builds(Activations, fixed=slope, per_token=slope, per_pixel=slope, per_frame_pixel=slope)
    modes = st.lists(texts(), max_size=2).map(tuple)
    phases = st.builds(PhaseCost, phase=st.sampled_from(MemoryPhase), weights_bytes=size, activations=activations, modes=modes)
    rungs = st.builds(Rung, placement=texts(), phases=st.lists(phases, max_size=2).map(tuple), host_bytes=size, pinned_bytes=size)
    ladders = st.builds(ModelLadder, model=texts(), rungs=st.lists(rungs, max_size=2).map(tuple), text_to_video_weights=texts())
    limits = st.builds(
        DeviceLimits, gpu=texts(), total_bytes=size, other_bytes=size, margin_bytes=size, host_bytes=size, pinned_limit_bytes=size
    )
    return st.builds(WorkerMemory, limits=limits, ladders=st.lists(ladders, max_size=2).map(tuple))


def learned() -> st.SearchStrategy[Learned]:
    """What attempts taught, with any values."""
    number = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
    rates = st.builds(Rate, seconds_per_token=number, largest_tokens=st.integers(0, 2**53), largest_seconds_per_token=number)
    sizes = st.dictionaries(st.integers(1, 53), st.integers(0, 2**53), max_size=3)
    places = st.builds(Place, gpu=texts(), model=texts().map(Model), placement=texts())
    return st.builds(Learned, place=places, excesses=st.dictionaries(texts(), sizes, max_size=3), rate=st.none() | rates)


def policies() -> st.SearchStrategy[ModelPolicy]:
    """Policies with any values."""
    return st.builds(
        ModelPolicy,
        model=texts().map(Model),
        is_fallback_manual=st.booleans(),
        quota_denied_until=st.none() | times(),
        quota_reason=texts(),
    )
