"""The lane's state machine, with plain values."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from runtime.lane.outcome import Failure, FailureCode, Outcome, Phase, StoredVideo, unmeasured
from runtime.lane.state import (
    OUTCOMES_KEPT,
    Action,
    Attempt,
    Ended,
    ForgetOutcome,
    Idle,
    LaneState,
    StartAttempt,
    StopAttempt,
    StopReason,
    Wish,
    Working,
    drained,
    ended,
    freed,
    progressed,
    stopped,
    wished,
)

A = Attempt(task_id="a", number=1)
B = Attempt(task_id="b", number=1)
FAILED = Outcome(memory=unmeasured("test"), failure=Failure(code=FailureCode.RENDER_FAILED, message="It failed."))
DONE = Outcome(
    memory=unmeasured("test"),
    result=StoredVideo(
        video_key="v", media_type="video/mp4", size_bytes=1, sha256="0", preview_key="p", width=256, height=256, num_frames=9, fps=8
    ),
)


def wish(
    sequence: int,
    *,
    lease: Attempt | None = None,
    acknowledged: Attempt | None = None,
    finishing: Attempt | None = None,
    stream: int = 1,
    epoch: int = 1,
) -> Wish:
    """A wish of the first stream and controller, unless said otherwise."""
    settled = () if acknowledged is None else (acknowledged,)
    return Wish(stream=stream, epoch=epoch, sequence=sequence, lease=lease, acknowledged=settled, finishing=finishing)


def working(attempt: Attempt = A) -> LaneState:
    """A lane that was given this attempt by wish 1."""
    return wished(LaneState(), wish(1, lease=attempt))[0]


def test_the_lease_is_started_when_the_lane_is_idle() -> None:
    state, actions = wished(LaneState(), wish(1, lease=A))
    assert actions == (StartAttempt(attempt=A),)
    assert state.activity == Working(attempt=A)


def test_nothing_happens_when_the_wish_repeats_what_is_in_work() -> None:
    state, actions = wished(working(), wish(2, lease=A))
    assert actions == ()
    assert state.activity == Working(attempt=A)


def test_the_work_is_stopped_when_it_is_not_wished() -> None:
    state, actions = wished(working(), wish(2))
    assert actions == (StopAttempt(attempt=A, reason=StopReason.UNWANTED),)
    assert state.activity == Working(attempt=A, stopping=StopReason.UNWANTED)


def test_the_work_is_stopped_and_the_other_lease_waits_when_another_is_wished() -> None:
    state, actions = wished(working(), wish(2, lease=B))
    assert actions == (StopAttempt(attempt=A, reason=StopReason.UNWANTED),)
    assert isinstance(state.activity, Working)
    assert state.activity.attempt == A


def test_it_is_stopped_once_when_the_wish_is_repeated() -> None:
    state, _ = wished(working(), wish(2))
    assert wished(state, wish(3))[1] == ()


def test_the_outcome_stays_when_the_wish_does_not_acknowledge_it() -> None:
    state, actions = wished(ended(working(), A, DONE), wish(2, lease=B))
    assert actions == ()
    assert state.activity == Ended(attempt=A, outcome=DONE, progress=100)


def test_the_next_lease_starts_when_the_same_wish_acknowledges_the_last() -> None:
    state, actions = wished(ended(working(), A, DONE), wish(2, lease=B, acknowledged=A))
    assert actions == (ForgetOutcome(attempt=A), StartAttempt(attempt=B))
    assert state.activity == Working(attempt=B)


def test_the_outcome_stays_when_another_attempt_is_acknowledged() -> None:
    state, actions = wished(ended(working(), A, DONE), wish(2, acknowledged=B))
    assert actions == ()
    assert isinstance(state.activity, Ended)


def test_the_kept_outcome_is_told_when_a_settled_attempt_is_leased_again() -> None:
    state, _ = wished(ended(working(), A, DONE), wish(2, acknowledged=A))
    state, actions = wished(state, wish(3, lease=A))
    assert actions == ()
    assert state.activity == Ended(attempt=A, outcome=DONE, progress=100)


def test_the_acknowledgement_wins_when_a_wish_leases_and_acknowledges_the_same_attempt() -> None:
    state, actions = wished(ended(working(), A, DONE), wish(2, lease=A, acknowledged=A))
    assert actions == (ForgetOutcome(attempt=A),)
    assert state.activity == Idle()


def test_outcomes_are_forgotten_when_too_many_are_kept() -> None:
    state = LaneState()
    for number in range(OUTCOMES_KEPT + 1):
        attempt = Attempt(task_id=str(number), number=1)
        state, _ = wished(state, wish(2 * number + 1, lease=attempt))
        state, _ = wished(ended(state, attempt, DONE), wish(2 * number + 2, acknowledged=attempt))
    assert len(state.settled) == OUTCOMES_KEPT
    assert state.settled[0].attempt.task_id == "1"


def test_the_wish_is_ignored_when_its_sequence_was_seen() -> None:
    state = working()
    assert wished(state, wish(1)) == (state, ())


def test_the_wish_is_ignored_when_its_controller_is_older() -> None:
    state, _ = wished(LaneState(), wish(1, lease=A, epoch=5))
    assert wished(state, wish(9, epoch=4, stream=2)) == (state, ())


def test_the_wish_is_ignored_when_its_stream_is_older() -> None:
    state, _ = wished(LaneState(), wish(1, lease=A, stream=2))
    assert wished(state, wish(9, stream=1)) == (state, ())


def test_sequences_begin_anew_when_the_stream_is_new() -> None:
    state, _ = wished(LaneState(), wish(9, lease=A))
    state, actions = wished(state, wish(1, stream=2))
    assert actions == (StopAttempt(attempt=A, reason=StopReason.UNWANTED),)
    assert state.seen_sequence(2) == 1
    assert state.seen_sequence(1) == 0


def test_no_lease_is_started_when_the_lane_drains() -> None:
    state, actions = wished(drained(LaneState()), wish(1, lease=A))
    assert actions == ()
    assert state.activity == Idle()


def test_the_first_reason_stays_when_work_is_stopped_twice() -> None:
    state, _ = stopped(working(), StopReason.DEADLINE)
    state, actions = stopped(state, StopReason.SHUTDOWN)
    assert actions == ()
    assert state.activity == Working(attempt=A, stopping=StopReason.DEADLINE)


def test_the_stop_becomes_firm_when_the_lane_ends_while_unwanted_work_goes_on() -> None:
    # The shutdown was swallowed here: an unwanted load, which nobody kills, then held up the end of the lane.
    state, _ = wished(working(), wish(2))
    state, actions = stopped(state, StopReason.SHUTDOWN)
    assert actions == (StopAttempt(attempt=A, reason=StopReason.SHUTDOWN),)
    assert state.activity == Working(attempt=A, stopping=StopReason.SHUTDOWN)


def test_the_stop_stays_firm_when_the_work_becomes_unwanted_too() -> None:
    state, _ = stopped(working(), StopReason.SHUTDOWN)
    state, actions = wished(state, wish(2))
    assert actions == ()
    assert state.activity == Working(attempt=A, stopping=StopReason.SHUTDOWN)


def test_progress_does_not_fall_when_a_smaller_one_is_told() -> None:
    state = progressed(working(), A, Phase.INFERENCE, 45, "step 2 of 4")
    state = progressed(state, A, Phase.INFERENCE, 20, "step 1 of 4")
    assert isinstance(state.activity, Working)
    assert state.activity.progress == 45


def test_progress_and_ends_are_ignored_when_they_are_of_another_attempt() -> None:
    state = working()
    assert progressed(state, B, Phase.ENCODING, 95, "") == state
    assert ended(state, B, DONE) == state


def test_progress_stays_where_it_was_when_the_attempt_failed() -> None:
    state = ended(progressed(working(), A, Phase.INFERENCE, 45, ""), A, FAILED)
    assert state.activity == Ended(attempt=A, outcome=FAILED, progress=45)


def aside(attempt: Attempt = A, following: Attempt | None = B) -> LaneState:
    """A lane that finishes the one and was given the other by wish 2."""
    return wished(freed(working(attempt), attempt), wish(2, lease=following, finishing=attempt))[0]


def test_the_next_lease_starts_beside_it_when_the_gpu_is_free_and_a_wish_moves_it_aside() -> None:
    state, actions = wished(freed(working(), A), wish(2, lease=B, finishing=A))
    assert actions == (StartAttempt(attempt=B),)
    assert state.finishing == Working(attempt=A, phase=Phase.ENCODING, gpu_free=True)
    assert state.activity == Working(attempt=B)


def test_the_next_lease_waits_when_the_gpu_is_not_free() -> None:
    state, actions = wished(working(), wish(2, lease=B, finishing=A))
    assert actions == ()
    assert (state.activity, state.finishing) == (Working(attempt=A), Idle())


def test_it_stays_where_it_is_when_no_wish_moves_it() -> None:
    # An admission that knows only one place names it as the lease.
    state, actions = wished(freed(working(), A), wish(2, lease=A))
    assert actions == ()
    assert state.finishing == Idle()


def test_it_stays_where_it_is_when_another_is_still_being_finished() -> None:
    state, actions = wished(freed(aside(), B), wish(3, lease=Attempt(task_id="c", number=1), finishing=B))
    assert actions == (StopAttempt(attempt=A, reason=StopReason.UNWANTED),)
    assert isinstance(state.activity, Working)
    assert state.activity.attempt == B


def test_an_ended_attempt_makes_room_for_the_next_lease_when_a_wish_moves_it_aside_unacknowledged() -> None:
    state, actions = wished(ended(freed(working(), A), A, DONE), wish(2, lease=B, finishing=A))
    assert actions == (StartAttempt(attempt=B),)
    assert state.finishing == Ended(attempt=A, outcome=DONE, progress=100)


def test_both_outcomes_are_forgotten_when_one_wish_acknowledges_both() -> None:
    state = ended(ended(aside(), B, DONE), A, FAILED)
    both = replace(wish(3), acknowledged=(A, B))
    state, actions = wished(state, both)
    assert set(actions) == {ForgetOutcome(attempt=A), ForgetOutcome(attempt=B)}
    assert (state.activity, state.finishing) == (Idle(), Idle())


def test_only_the_unwanted_one_is_stopped_when_a_wish_names_the_other_in_either_place() -> None:
    assert wished(aside(), wish(3, lease=B))[1] == (StopAttempt(attempt=A, reason=StopReason.UNWANTED),)
    assert wished(aside(), wish(3, finishing=A))[1] == (StopAttempt(attempt=B, reason=StopReason.UNWANTED),)
    # A restarted admission that does not know yet which of the two has the GPU.
    assert wished(aside(), wish(3, lease=A, finishing=B)) == (replace(aside(), sequence=3), ())


def test_both_are_stopped_when_the_lane_is_and_only_the_late_one_when_its_time_is_over() -> None:
    both = (StopAttempt(attempt=A, reason=StopReason.SHUTDOWN), StopAttempt(attempt=B, reason=StopReason.SHUTDOWN))
    assert stopped(aside(), StopReason.SHUTDOWN)[1] == both
    assert stopped(aside(), StopReason.DEADLINE, A)[1] == (StopAttempt(attempt=A, reason=StopReason.DEADLINE),)


def test_nothing_new_starts_beside_it_when_the_lane_is_draining() -> None:
    state, actions = wished(drained(freed(working(), A)), wish(2, lease=B, finishing=A))
    assert actions == ()
    assert (state.activity, isinstance(state.finishing, Working)) == (Idle(), True)


ATTEMPTS = st.builds(Attempt, task_id=st.sampled_from("abc"), number=st.integers(1, 2))
WISHES = st.builds(
    Wish,
    stream=st.integers(1, 3),
    epoch=st.integers(1, 2),
    sequence=st.integers(1, 30),
    lease=st.none() | ATTEMPTS,
    acknowledged=st.just(()) | st.tuples(ATTEMPTS) | st.tuples(ATTEMPTS, ATTEMPTS),
    finishing=st.none() | ATTEMPTS,
)
EVENTS = st.lists(WISHES | st.sampled_from(["free", "end", "finish", "drain", "deadline", "shutdown"]), max_size=60)


@given(EVENTS)
def test_every_start_is_alone_on_the_gpu_and_ends_once_when_anything_happens(events: list[Wish | str]) -> None:
    state = LaneState()
    on_gpu: Attempt | None = None
    in_work: set[Attempt] = set()
    started: set[Attempt] = set()
    stops: dict[Attempt, StopReason] = {}
    for event in events:
        before = state
        actions: tuple[Action, ...] = ()
        if isinstance(event, Wish):
            state, actions = wished(state, event)
            assert (state.epoch, state.stream) >= (before.epoch, before.stream) or state.epoch > before.epoch
        elif event == "free" and on_gpu is not None:
            state, on_gpu = freed(state, on_gpu), None
        elif event in ("end", "finish"):
            one = state.activity if event == "end" else state.finishing
            if isinstance(one, Working):
                state = ended(state, one.attempt, DONE)
                in_work.remove(one.attempt)
                on_gpu = None if on_gpu == one.attempt else on_gpu
        elif event == "drain":
            state = drained(state)
        elif event in ("deadline", "shutdown"):
            state, actions = stopped(state, StopReason(event))
        for action in actions:
            match action:
                case StartAttempt(attempt=attempt):
                    assert on_gpu is None
                    # Fewer attempts than outcomes are kept, so none may ever run twice.
                    assert attempt not in started
                    assert not state.draining
                    started.add(attempt)
                    in_work.add(attempt)
                    on_gpu = attempt
                case StopAttempt(attempt=attempt, reason=reason):
                    assert attempt in in_work
                    assert reason.replaces(stops.get(attempt))
                    stops[attempt] = reason
                case ForgetOutcome(attempt=attempt):
                    assert isinstance(event, Wish)
                    assert attempt in event.acknowledged
                    assert attempt in [one.attempt for one in before.activities if isinstance(one, Ended)]
        expect_places(state, in_work, on_gpu)


def expect_places(state: LaneState, in_work: set[Attempt], on_gpu: Attempt | None) -> None:
    """These are in work, each once, and only this one has the GPU."""
    working = [one for one in state.activities if isinstance(one, Working)]
    assert {one.attempt for one in working} == in_work
    assert len(working) == len(in_work)
    assert [one.attempt for one in working if not one.gpu_free] == ([] if on_gpu is None else [on_gpu])
    assert not isinstance(state.finishing, Working) or state.finishing.gpu_free


@given(EVENTS)
def test_no_outcome_is_forgotten_unless_it_is_acknowledged_when_anything_happens(events: list[Wish | str]) -> None:
    state = LaneState()
    for event in events:
        held = [one for one in state.activities if isinstance(one, Ended)]
        if isinstance(event, Wish):
            state, _ = wished(state, event)
            held = [one for one in held if one.attempt not in event.acknowledged]
        elif event == "free" and isinstance(state.activity, Working):
            state = freed(state, state.activity.attempt)
        elif event in ("end", "finish"):
            one = state.activity if event == "end" else state.finishing
            state = ended(state, one.attempt, DONE) if isinstance(one, Working) else state
        assert all(one in state.activities for one in held)


@given(EVENTS, WISHES)
def test_a_wish_changes_nothing_more_when_it_comes_twice(events: list[Wish | str], last: Wish) -> None:
    state = LaneState()
    for event in events:
        if isinstance(event, Wish):
            state, _ = wished(state, event)
        elif event == "end" and isinstance(state.activity, Working):
            state = ended(state, state.activity.attempt, FAILED)
    once, _ = wished(state, last)
    assert wished(once, last) == (once, ())
    assert wished(once, replace(last, lease=None)) == (once, ())
