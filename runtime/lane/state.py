"""The lane's state machine: what it does with what admission wishes. Values in, values and actions out; the agent carries the actions out.

Rules:

* The lane has two places, each idle, working on an attempt, or holding the outcome of an ended one until admission acknowledges it: the
  `activity`, which has the GPU, and beside it `finishing`, for an attempt that needs the GPU no more.
* An attempt changes to `finishing` when a wish names it so, it needs the GPU no more, and nothing is there; never back, never by itself.
* A wish is the whole desired state. Work that it names in neither place is stopped. A stop cannot be taken back, but become a firmer one.
* A wish of an older controller epoch, of an older stream, or not newer than one already seen of its stream, changes nothing.
* The next lease starts only once the attempt before it has ended and is acknowledged, or has changed places; one wish may do both.
* A lease for an attempt that ended in this boot does not render again while its outcome is known: the lane answers with that outcome.
  The last `OUTCOMES_KEPT` are kept for that. An attempt older than those would render again; that cannot commit twice, because its keys are
  the attempt's own, the same request gives the same bytes, and admission commits an attempt once.
* A lease and the acknowledgement of the same attempt in one wish contradict each other: the acknowledgement wins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from runtime.lane.outcome import Failure, FailureCode, Outcome, Phase

OUTCOMES_KEPT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Names one try at a task."""

    task_id: str
    number: int


class StopReason(StrEnum):
    """Why an attempt is stopped."""

    UNWANTED = "unwanted"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"

    def replaces(self, earlier: StopReason | None) -> bool:
        """Whether it takes the place of the earlier reason: only one that can wait gives way, since an unwanted load is let end."""
        return earlier is None or (earlier is StopReason.UNWANTED and self is not StopReason.UNWANTED)


def stop_failure(reason: StopReason) -> Failure:
    """What an attempt that was stopped for this reason ends with."""
    match reason:
        case StopReason.UNWANTED:
            return Failure(code=FailureCode.CANCELLED, message="The render was cancelled.")
        case StopReason.SHUTDOWN:
            return Failure(code=FailureCode.CANCELLED, message="The lane was stopped.")
        case StopReason.DEADLINE:
            return Failure(code=FailureCode.DEADLINE_EXCEEDED, message="The render took longer than it may.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Working:
    """An attempt is in work.

    Attributes:
        progress: 0 to 100, never falling.
        detail: a short sentence for people.
        gpu_free: it needs the GPU no more.
        stopping: why it was told to stop; None while it was not.
    """

    attempt: Attempt
    phase: Phase = Phase.LOADING
    progress: int = 0
    detail: str = ""
    gpu_free: bool = False
    stopping: StopReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt ended; its outcome is repeated until acknowledged."""

    attempt: Attempt
    outcome: Outcome
    progress: int = 0


Activity = Idle | Working | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What admission wants.

    Attributes:
        stream: number of the stream that brought it; later streams have higher numbers.
        lease: what to work on; None: nothing.
        acknowledged: ended attempts that admission has settled.
        finishing: an earlier lease that goes on beside it.
    """

    stream: int
    epoch: int
    sequence: int
    lease: Attempt | None = None
    acknowledged: tuple[Attempt, ...] = ()
    finishing: Attempt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAttempt:
    """Begin to work on the lease that the wish carries."""

    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAttempt:
    """End an attempt in work; its end is reported like any other."""

    attempt: Attempt
    reason: StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetOutcome:
    """The outcome reached admission and needs no more repeating."""

    attempt: Attempt


Action = StartAttempt | StopAttempt | ForgetOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """Everything the lane knows of its work.

    Attributes:
        activity: what has the GPU.
        finishing: what goes on without it.
        draining: no lease is started any more.
        epoch: highest controller epoch seen.
        stream: newest stream that brought a wish.
        sequence: newest wish of that stream.
        settled: acknowledged ends, oldest first, at most OUTCOMES_KEPT.
    """

    activity: Activity = Idle()
    finishing: Activity = Idle()
    draining: bool = False
    epoch: int = 0
    stream: int = 0
    sequence: int = 0
    settled: tuple[Ended, ...] = ()

    def seen_sequence(self, stream: int) -> int:
        """Newest wish seen of this stream; 0 before its first."""
        return self.sequence if stream == self.stream else 0

    @property
    def activities(self) -> tuple[Activity, ...]:
        """Both places, the older attempt's first."""
        return self.finishing, self.activity


Step = tuple[LaneState, tuple[Action, ...]]


def is_stale(state: LaneState, wish: Wish) -> bool:
    """Whether the wish comes from a controller, stream or moment that was already overtaken."""
    if wish.epoch < state.epoch or wish.stream < state.stream:
        return True
    return wish.stream == state.stream and wish.sequence <= state.sequence


def wished(state: LaneState, wish: Wish) -> Step:
    """Takes in a wish of admission; a stale one changes nothing."""
    if is_stale(state, wish):
        return state, ()
    state = replace(state, epoch=wish.epoch, stream=wish.stream, sequence=wish.sequence)
    state, forgotten = _acknowledged(state, wish.acknowledged)
    wanted = {wish.lease, wish.finishing} - {None, *wish.acknowledged}
    unwanted = (one.attempt for one in state.activities if isinstance(one, Working) and one.stopping is None and one.attempt not in wanted)
    stops: tuple[Action, ...] = ()
    for attempt in tuple(unwanted):
        state, actions = stopped(state, StopReason.UNWANTED, attempt)
        stops += actions
    if wish.finishing is not None and wish.finishing in wanted:
        state = _moved_aside(state, wish.finishing)
    begun: tuple[Action, ...] = ()
    if wish.lease is not None and wish.lease in wanted:
        state, begun = _begun(state, wish.lease)
    return state, (*forgotten, *stops, *begun)


def stopped(state: LaneState, reason: StopReason, attempt: Attempt | None = None) -> Step:
    """Stops what is in work, or only this attempt; not what was stopped before for a reason that this one does not replace."""

    def stop(one: Activity) -> Activity:
        is_meant = isinstance(one, Working) and attempt in (None, one.attempt) and reason.replaces(one.stopping)
        return replace(one, stopping=reason) if isinstance(one, Working) and is_meant else one

    after = replace(state, activity=stop(state.activity), finishing=stop(state.finishing))
    changes = [one for before, one in zip(state.activities, after.activities, strict=True) if one is not before]
    return after, tuple(StopAttempt(attempt=one.attempt, reason=reason) for one in changes if isinstance(one, Working))


def progressed(state: LaneState, attempt: Attempt, phase: Phase, progress: int, detail: str) -> LaneState:
    """Takes in how far an attempt in work is; progress never falls and stays under 100 until the end."""

    def progress_of(working: Working) -> Activity:
        return replace(working, phase=phase, progress=max(working.progress, min(progress, 99)), detail=detail)

    return _changed(state, attempt, progress_of)


def freed(state: LaneState, attempt: Attempt) -> LaneState:
    """Takes in that an attempt in work needs the GPU no more."""
    return _changed(state, attempt, lambda working: replace(working, phase=Phase.ENCODING, gpu_free=True))


def ended(state: LaneState, attempt: Attempt, outcome: Outcome) -> LaneState:
    """Takes in the end of an attempt in work."""

    def end_of(working: Working) -> Activity:
        return Ended(attempt=attempt, outcome=outcome, progress=100 if outcome.result is not None else working.progress)

    return _changed(state, attempt, end_of)


def drained(state: LaneState) -> LaneState:
    """From now on no lease is started; what is in work goes on."""
    return replace(state, draining=True)


def _changed(state: LaneState, attempt: Attempt, change: Callable[[Working], Activity]) -> LaneState:
    """The state with the attempt changed, wherever it is in work."""
    if isinstance(state.activity, Working) and state.activity.attempt == attempt:
        return replace(state, activity=change(state.activity))
    if isinstance(state.finishing, Working) and state.finishing.attempt == attempt:
        return replace(state, finishing=change(state.finishing))
    return state


def _acknowledged(state: LaneState, acknowledged: tuple[Attempt, ...]) -> Step:
    """Forgets the ends that admission has settled, but for what a lease of the same attempt would be answered with."""
    ends = [one for one in state.activities if isinstance(one, Ended) and one.attempt in acknowledged]
    for end in ends:
        others = tuple(one for one in state.settled if one.attempt != end.attempt)
        state = replace(state, settled=(*others, end)[-OUTCOMES_KEPT:])
    activity, finishing = (Idle() if one in ends else one for one in (state.activity, state.finishing))
    return replace(state, activity=activity, finishing=finishing), tuple(ForgetOutcome(attempt=end.attempt) for end in ends)


def _moved_aside(state: LaneState, wished: Attempt) -> LaneState:
    """The attempt goes on without the GPU, if it can and nothing else does."""
    activity = state.activity
    if not isinstance(state.finishing, Idle):
        return state
    if isinstance(activity, Idle) or activity.attempt != wished:
        return replace(state, finishing=_settled(state, wished) or Idle())
    has_left_gpu = isinstance(activity, Ended) or activity.gpu_free
    return replace(state, activity=Idle(), finishing=activity) if has_left_gpu else state


def _begun(state: LaneState, lease: Attempt) -> Step:
    """Begins the lease, if the lane does not have it already and nothing has the GPU."""
    is_here = not isinstance(state.finishing, Idle) and state.finishing.attempt == lease
    if is_here or not isinstance(state.activity, Idle):
        return state, ()
    known = _settled(state, lease)
    if known is not None:
        return replace(state, activity=known), ()
    if state.draining:
        return state, ()
    return replace(state, activity=Working(attempt=lease)), (StartAttempt(attempt=lease),)


def _settled(state: LaneState, attempt: Attempt) -> Ended | None:
    return next((end for end in state.settled if end.attempt == attempt), None)
