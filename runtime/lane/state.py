"""The lane's state machine: what it does with what admission wishes. Values in, values and actions out; the agent carries the actions out.

Rules:

* The lane does one thing at a time: idle, working on an attempt, or holding the outcome of an ended one until admission acknowledges it.
* A wish is the whole desired state. Work that it does not name is stopped. A stop cannot be taken back; it can become a firmer one.
* A wish of an older controller epoch, of an older stream, or not newer than one already seen of its stream, changes nothing.
* The next lease starts only once the ended attempt is acknowledged; one wish may do both.
* A lease for an attempt that ended in this boot does not render again while its outcome is known: the lane answers with that outcome.
  The last `OUTCOMES_KEPT` are kept for that. An attempt older than those would render again; that cannot commit twice, because its keys are
  the attempt's own, the same request gives the same bytes, and admission commits an attempt once.
* A lease and the acknowledgement of the same attempt in one wish contradict each other: the acknowledgement wins.
"""

from __future__ import annotations

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
        stopping: why it was told to stop; None while it was not.
    """

    attempt: Attempt
    phase: Phase = Phase.LOADING
    progress: int = 0
    detail: str = ""
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
        acknowledged: an ended attempt that admission has settled.
    """

    stream: int
    epoch: int
    sequence: int
    lease: Attempt | None = None
    acknowledged: Attempt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAttempt:
    """Begin to work on the lease that the wish carries."""

    attempt: Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAttempt:
    """End the attempt in work; its end is reported like any other."""

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
        draining: no lease is started any more.
        epoch: highest controller epoch seen.
        stream: newest stream that brought a wish.
        sequence: newest wish of that stream.
        settled: acknowledged ends, oldest first, at most OUTCOMES_KEPT.
    """

    activity: Activity = Idle()
    draining: bool = False
    epoch: int = 0
    stream: int = 0
    sequence: int = 0
    settled: tuple[Ended, ...] = ()

    def seen_sequence(self, stream: int) -> int:
        """Newest wish seen of this stream; 0 before its first."""
        return self.sequence if stream == self.stream else 0


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
    state, forgotten = _acknowledge(state, wish.acknowledged)
    lease = None if wish.lease == wish.acknowledged else wish.lease
    match state.activity:
        case Working(attempt=attempt, stopping=stopping):
            if attempt == lease or stopping is not None:
                return state, forgotten
            state, actions = stopped(state, StopReason.UNWANTED)
            return state, (*forgotten, *actions)
        case Ended():
            return state, forgotten
        case Idle():
            state, actions = _begin(state, lease)
            return state, (*forgotten, *actions)


def stopped(state: LaneState, reason: StopReason) -> Step:
    """Stops what is in work; nothing if nothing is, or if it was stopped before for a reason that this one does not replace."""
    if not isinstance(state.activity, Working) or not reason.replaces(state.activity.stopping):
        return state, ()
    activity = replace(state.activity, stopping=reason)
    return replace(state, activity=activity), (StopAttempt(attempt=activity.attempt, reason=reason),)


def progressed(state: LaneState, attempt: Attempt, phase: Phase, progress: int, detail: str) -> LaneState:
    """Takes in how far the attempt in work is; progress never falls and stays under 100 until the end."""
    if not isinstance(state.activity, Working) or state.activity.attempt != attempt:
        return state
    progress = max(state.activity.progress, min(progress, 99))
    return replace(state, activity=replace(state.activity, phase=phase, progress=progress, detail=detail))


def ended(state: LaneState, attempt: Attempt, outcome: Outcome) -> LaneState:
    """Takes in the end of the attempt in work."""
    if not isinstance(state.activity, Working) or state.activity.attempt != attempt:
        return state
    progress = 100 if outcome.result is not None else state.activity.progress
    return replace(state, activity=Ended(attempt=attempt, outcome=outcome, progress=progress))


def drained(state: LaneState) -> LaneState:
    """From now on no lease is started; what is in work goes on."""
    return replace(state, draining=True)


def _acknowledge(state: LaneState, acknowledged: Attempt | None) -> Step:
    activity = state.activity
    if acknowledged is None or not isinstance(activity, Ended) or activity.attempt != acknowledged:
        return state, ()
    others = tuple(end for end in state.settled if end.attempt != acknowledged)
    settled = (*others, activity)[-OUTCOMES_KEPT:]
    return replace(state, activity=Idle(), settled=settled), (ForgetOutcome(attempt=acknowledged),)


def _begin(state: LaneState, lease: Attempt | None) -> Step:
    if lease is None:
        return state, ()
    known = next((end for end in state.settled if end.attempt == lease), None)
    if known is not None:
        return replace(state, activity=known), ()
    if state.draining:
        return state, ()
    return replace(state, activity=Working(attempt=lease)), (StartAttempt(attempt=lease),)
