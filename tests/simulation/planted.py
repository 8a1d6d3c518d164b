"""Faults planted into admission, one for each thing that must hold, and what the checker says about each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.simulation.faults import answers, durability, endings, fitting, leases, overlap, queues


@dataclass(frozen=True, slots=True)
class Fault:
    """A mutation, and a part of what the checker says about it.

    Attributes:
        seed: tried first, to save time: one that caught it when the fault was added. Any other may do as well.
    """

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    caught_as: str
    seed: int = 0


FAULTS = (
    Fault("reply_before_persist", durability.reply_before_persist, "is accepted in a reply and not on disk"),
    Fault("send_before_persist", durability.send_before_persist, "no lease for it is on disk"),
    Fault("lease_not_persisted", durability.lease_not_persisted, "no lease for it"),
    Fault("epoch_guard_off", durability.epoch_guard_off, "wrote, and"),
    Fault("cancel_told_too_early", durability.cancel_told_too_early, "was cancelled in a reply and goes on"),
    Fault("fencing_forgotten", leases.fencing_forgotten, "is committed", seed=19),
    Fault("attempt_number_reused", leases.attempt_number_reused, "started twice"),
    Fault("lease_kept_after_loss", leases.lease_kept_after_loss, ""),
    Fault("old_boots_are_heard", leases.old_boots_are_heard, "went back to", seed=12),
    Fault("lease_ends_at_restart", leases.lease_ends_at_restart, "ran out after"),
    Fault("fourth_attempt", leases.fourth_attempt, "goes on after 3 lost lanes", seed=14),
    Fault("drain_ignored", leases.drain_ignored, "which is drained", seed=6),
    Fault("leased_forgotten_at_restart", endings.leased_forgotten_at_restart, ""),
    Fault("withdrawn_forgotten_at_restart", endings.withdrawn_forgotten_at_restart, "never said that the GPU is free", seed=5),
    Fault("cancelled_runs_again", endings.cancelled_runs_again, "was cancelled and became", seed=5),
    Fault("cancelled_is_done_later", endings.cancelled_is_done_later, ""),
    Fault("committed_files_removed", endings.committed_files_removed, "are removed, and it is", seed=9),
    Fault("operators_forgotten_at_restart", endings.operators_forgotten_at_restart, "forgot what was said", seed=16),
    Fault("memory_recorded_twice", leases.memory_recorded_twice, "two memory records"),
    Fault("memory_of_lost_lane_missing", leases.memory_of_lost_lane_missing, "has no memory record", seed=2),
    Fault("finishing_forgotten_when_lost", overlap.finishing_forgotten_when_its_lane_is_lost, "and stands in []", seed=12),
    Fault("finishing_forgotten_at_restart", overlap.finishing_forgotten_at_restart, "on disk it goes on"),
    Fault("gpu_given_twice", overlap.gpu_given_twice, "while its GPU is busy"),
    Fault("overtaken_word_is_believed", overlap.overtaken_word_is_believed, "while its GPU is busy", seed=59),
    Fault("outcome_goes_to_the_other", overlap.outcome_goes_to_the_other, "is committed with"),
    Fault("third_attempt_given", overlap.third_attempt_given, ""),
    Fault("depth_26", queues.depth_26, "are held and", seed=7),
    Fault("six_rescued", queues.six_rescued, "rescued", seed=56),
    Fault("expiry_does_not_win", queues.expiry_does_not_win, "is held for", seed=3),
    Fault("timer_is_late", queues.timer_is_late, "overloaded after", seed=6),
    Fault("place_kept_after_hang_up", queues.place_kept_after_hang_up, "for a caller that left", seed=2),
    Fault("newest_first", queues.newest_first, "was taken before", seed=2),
    Fault("held_are_passed", queues.held_are_passed, "was taken before"),
    Fault("no_turns", queues.no_turns, "turns in a row", seed=1),
    Fault("head_goes_anywhere", fitting.head_goes_anywhere, "which has no room for it"),
    Fault("pool_takes_anything", fitting.pool_takes_anything, "which has no room for it", seed=5),
    Fault("nothing_is_refused", fitting.nothing_is_refused, "is not refused, and no lane has room for it"),
    Fault("refused_is_kept", fitting.refused_is_kept, "is refused and kept"),
    Fault("absent_lanes_do_not_count", fitting.absent_lanes_do_not_count, "room for it"),
    Fault("verdicts_go_stale", fitting.verdicts_go_stale, "room for it", seed=7),
    Fault("memory_forgotten_at_restart", fitting.memory_forgotten_at_restart, "forgot what lane"),
    Fault("learned_forgotten_at_restart", fitting.learned_forgotten_at_restart, "forgot what was learned", seed=10),
    Fault("retirement_ignored", fitting.retirement_ignored, "room for it", seed=15),
    Fault("corrections_ignored", fitting.corrections_ignored, "room for it", seed=5),
    Fault("lease_without_placement", fitting.lease_without_placement, "without a placement"),
    Fault("duplicate_not_joined", answers.duplicate_not_joined, "idempotency key", seed=145),
    Fault("duplicate_not_looked_up", answers.duplicate_not_looked_up, "idempotency key", seed=10),
    Fault("other_body_accepted", answers.other_body_accepted, "was asked", seed=10),
    Fault("event_skipped", answers.event_skipped, "saw events", seed=40),
    Fault("event_repeated", answers.event_repeated, "was told event", seed=7),
    Fault("reader_misses_bell", answers.reader_misses_bell, "reader of all events"),
    Fault("not_repeatable", answers.not_repeatable, "the same seed is another history"),
)
