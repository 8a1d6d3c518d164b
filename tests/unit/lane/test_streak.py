"""How long the lane waits before the next start, and what it says of starts that failed."""

from __future__ import annotations

import errno
import signal

from runtime.lane.child_process import Exit
from runtime.lane.child_protocol import LoadFailed
from runtime.lane.start_failure import StartCause
from runtime.lane.streak import Streak, told_end


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        """At 0."""
        self.now_s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def test_the_pause_doubles_up_to_30_s_when_starts_fail_for_days() -> None:
    # After 1025 deaths the power was more than a float can be: the lane's agent died of it, after eight hours without weights.
    streak = Streak(Clock())
    pauses = []
    for _ in range(3000):
        streak.started()
        pauses.append(streak.died(StartCause.WEIGHTS_MISSING, "no folder")[0])
    assert pauses[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert set(pauses[8:]) == {30.0}


def test_the_pause_grows_when_a_load_fails_late_every_time() -> None:
    # A process that lived for 60 s counted as a good one although it was never warm: no pause, and the lane stayed healthy for ever.
    clock = Clock()
    streak = Streak(clock)
    pauses = []
    for _ in range(4):
        streak.started()
        clock.now_s += 300.0
        pause_s, failure = streak.died(StartCause.WEIGHTS_UNUSABLE, "cut off")
        pauses.append(pause_s)
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert streak.is_long
    assert failure is not None
    assert failure.attempts == 4
    assert str(failure).startswith("cut off (try 4 failed; the next at ")


def test_the_count_begins_anew_when_the_process_was_warm_for_a_minute() -> None:
    clock = Clock()
    streak = Streak(clock)
    for _ in range(3):
        streak.started()
        streak.died(StartCause.OTHER, "x")
    streak.started()
    assert streak.warmed()
    assert not streak.warmed()
    clock.now_s += 60.0
    assert streak.died(StartCause.PROCESS_DIED, "killed") == (0.5, None)
    assert not streak.is_long


def test_the_count_goes_on_when_the_process_was_warm_for_a_moment() -> None:
    streak = Streak(Clock())
    for expected_s in (0.5, 1.0, 2.0):
        streak.started()
        streak.warmed()
        assert streak.died(StartCause.PROCESS_DIED, "killed") == (expected_s, None)
    assert streak.is_long


def test_what_the_process_said_comes_first_when_it_ended() -> None:
    said = LoadFailed(model="anisora", reason="no\nfolder", cause=StartCause.WEIGHTS_MISSING)
    assert told_end(Exit(code=1), said, is_starved=False) == (StartCause.WEIGHTS_MISSING, "no folder")


def test_the_signal_is_told_with_its_number_when_the_process_was_killed() -> None:
    cause, reason = told_end(Exit(code=-signal.SIGKILL), None, is_starved=False)
    assert cause is StartCause.PROCESS_DIED
    assert "signal 9, SIGKILL" in reason


def test_host_memory_is_the_cause_when_the_kernel_killed_for_it() -> None:
    cause, reason = told_end(Exit(code=-signal.SIGKILL), None, is_starved=True)
    assert cause is StartCause.HOST_MEMORY
    assert "signal 9" in reason
    # Another process of the machine may have been the victim.
    assert told_end(Exit(code=1), None, is_starved=True)[0] is StartCause.PROCESS_DIED


def test_host_memory_is_the_cause_when_no_process_can_be_started_for_want_of_it() -> None:
    assert told_end(OSError(errno.ENOMEM, "Cannot allocate memory"), None, is_starved=False)[0] is StartCause.HOST_MEMORY
    assert told_end(OSError(errno.EAGAIN, "no more processes"), None, is_starved=False)[0] is StartCause.OTHER
