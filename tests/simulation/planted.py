"""Faults planted into admission, one for each thing that must hold: each is a mutation of the real code, undone afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from random import SystemRandom
from typing import Any
from unittest.mock import patch

from admission import engine, journal, submissions, watching
from admission.core import availability, contact, leases, operators, rescues, routing
from admission.core.commands import Command, PersistTask, ReplyAccepted, SendWish
from admission.core.events import CancelRequested
from admission.core.fair_queue import FairQueue
from admission.core.lanes import KnownLane, Lease, ModelPolicy, Outcome, Report
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.state import Lane, State, Turn
from admission.core.tasks import Event, Task, TaskId, TaskState, moved
from admission.core.time import Now
from admission.store.port import EventQuery
from tests.simulation import world
from tests.simulation.disk import Disk, ModelStore


@dataclass(frozen=True, slots=True)
class Fault:
    """A mutation, and a part of what the checker says about it."""

    name: str
    plant: Callable[[], AbstractContextManager[object]]
    caught_as: str


# What is on disk before anyone is told.


def reply_before_persist() -> AbstractContextManager[object]:
    """The caller hears of its acceptance before the write."""
    append = journal.Journal.append

    def hasty(self: journal.Journal, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, ReplyAccepted):
                self._carry_out(command)
        append(self, commands)

    return patch.object(journal.Journal, "append", hasty)


def send_before_persist() -> AbstractContextManager[object]:
    """The lane hears of its lease before the write."""
    append = journal.Journal.append

    def hasty(self: journal.Journal, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, SendWish):
                self._carry_out(command)
        append(self, commands)

    return patch.object(journal.Journal, "append", hasty)


def lease_not_persisted() -> AbstractContextManager[object]:
    """A lease lives in memory only."""
    store = Turn.store

    def forgetful(self: Turn, task: Task, *, accepts: bool = False) -> None:
        store(self, task, accepts=accepts)
        if task.state is TaskState.LEASED and task.attempt == 1 and not accepts:
            self.commands = [one for one in self.commands if not (isinstance(one, PersistTask) and one.task is task)]

    return patch.object(Turn, "store", forgetful)


def epoch_guard_off() -> AbstractContextManager[object]:
    """The store takes writes of an admission that was replaced."""
    return patch.object(Disk, "guard", lambda self, epoch: None)


def cancel_told_too_early() -> AbstractContextManager[object]:
    """A cancel is answered before it is durable."""

    async def at_once(self: journal.Journal) -> None:
        return

    async def view(self: engine.Engine, task_id: TaskId) -> object:
        self._handle(CancelRequested(task_id=task_id))
        return await self.task(task_id)

    return patch.object(engine.Engine, "cancel", view)


# Leases and fencing.


def fencing_forgotten() -> AbstractContextManager[object]:
    """The result of an attempt that is not the present one is committed."""
    refuse = leases.refuse

    def believe(turn: Turn, lane: Lane, stale: Lease, outcome: Outcome) -> None:
        task = turn.state.tasks.get(stale.task_id)
        refuse(turn, lane, stale, outcome)
        if task is not None and task.lane_id is not None and task.state is TaskState.LEASED and outcome.result is not None:
            leases.settle(turn, turn.state.lanes[task.lane_id], task, outcome)

    return patch.object(leases, "refuse", believe)


def attempt_number_reused() -> AbstractContextManager[object]:
    """The same lane that lost a lease gets it again under the old number."""

    def same(task: Task, state: TaskState, at: datetime, **changes: Any) -> Task:
        if "attempt" in changes and task.attempt > 0:
            changes["attempt"] = task.attempt
        return moved(task, state, at, **changes)

    return patch.object(leases, "moved", same)


def lease_kept_after_loss() -> AbstractContextManager[object]:
    """A lane that lost its lease keeps it in the core."""
    lose = leases.lose

    def sticky(turn: Turn, lane: Lane, reason: str, *, counts: bool = True) -> None:
        lease = lane.lease
        lose(turn, lane, reason, counts=counts)
        lane.lease = lane.lease or lease

    return patch.object(leases, "lose", sticky)


def old_boots_are_heard() -> AbstractContextManager[object]:
    """A lane's process that a newer one replaced is listened to again."""
    boot = contact._boot

    def forgetful(turn: Turn, lane: Lane, report: Report) -> None:
        boot(turn, lane, report)
        lane.past_boots = ()

    return patch.object(contact, "_boot", forgetful)


def lease_ends_at_restart() -> AbstractContextManager[object]:
    """Leases are not renewed when admission starts again."""
    restore = QueueState._restore_lease

    def short(self: QueueState, turn: Turn, task: Task) -> None:
        with patch.object(self.state, "limits", replace(self.state.limits, lease_s=1.0)):
            restore(self, turn, task)

    return patch.object(QueueState, "_restore_lease", short)


def fourth_attempt() -> AbstractContextManager[object]:
    """A task goes on after its third lost lane."""
    return patch.object(world, "Limits", lambda **changes: Limits(max_lost_lanes=4, **changes))


def drain_ignored() -> AbstractContextManager[object]:
    """A drained lane gets work."""
    look = availability.availability

    def blind(state: State, lane: Lane, now_s: float) -> object:
        drained, lane.is_drained = lane.is_drained, False
        found = look(state, lane, now_s)
        lane.is_drained = drained
        return found

    return patch.object(availability, "availability", blind)


# Nothing is lost, nothing changes once it ended.


def _restore_some(keep: Callable[[Task], bool]) -> AbstractContextManager[object]:
    restore = QueueState.restore

    def some(
        self: QueueState, tasks: Iterable[Task], lanes: Iterable[KnownLane], now: Now, policies: Iterable[ModelPolicy] = ()
    ) -> list[Command]:
        return restore(self, [task for task in tasks if keep(task)], lanes, now, policies)

    return patch.object(QueueState, "restore", some)


def leased_forgotten_at_restart() -> AbstractContextManager[object]:
    """A restarted admission takes over queued tasks only."""
    return _restore_some(lambda task: task.state is not TaskState.LEASED)


def withdrawn_forgotten_at_restart() -> AbstractContextManager[object]:
    """A restarted admission forgets what a lane was told to stop."""
    return _restore_some(lambda task: not task.is_withdrawn)


def cancelled_runs_again() -> AbstractContextManager[object]:
    """A restart takes a cancelled task whose lane still works on it for one that goes on."""

    def resurrect(self: QueueState, turn: Turn, task: Task) -> None:
        again = replace(task, state=TaskState.QUEUED, failure=None, is_withdrawn=False)
        turn.store(again)
        self._restore_queued(turn, again)

    return patch.object(QueueState, "_restore_withdrawn", resurrect)


def cancelled_is_done_later() -> AbstractContextManager[object]:
    """A result that comes after the cancel is committed."""
    end = leases.end_withdrawn

    def late(turn: Turn, lane: Lane, outcome: Outcome | None, reason: str = "no word") -> None:
        lease = lane.withdrawn
        task = None if lease is None else turn.state.withdrawn.get(lease.task_id)
        end(turn, lane, outcome, reason)
        if task is not None and outcome is not None:
            turn.store(replace(task, state=TaskState.DONE, result=outcome.result, failure=None, is_withdrawn=False))

    return patch.object(leases, "end_withdrawn", late)


def committed_files_removed() -> AbstractContextManager[object]:
    """The sweeper does not ask the store whether an attempt was committed."""

    async def never(self: engine.Engine, task_id: TaskId, attempt: int) -> bool:
        return False

    return patch.object(engine.Engine, "_is_wanted", never)


def operators_forgotten_at_restart() -> AbstractContextManager[object]:
    """What operators said about models ends with the process."""
    return patch.object(operators, "restore", lambda turn, policy: None)


# Memory records.


def memory_recorded_twice() -> AbstractContextManager[object]:
    """The record of an attempt is written twice."""
    remember = leases._remember_memory

    def twice(turn: Turn, lane: Lane, task: Task, memory: Any) -> None:
        remember(turn, lane, task, memory)
        remember(turn, lane, task, memory)

    return patch.object(leases, "_remember_memory", twice)


def memory_of_lost_lane_missing() -> AbstractContextManager[object]:
    """An attempt whose lane was lost gets no record."""
    record = Turn.record

    def some(self: Turn, event: Event) -> None:
        if not (event.event_type == "memory_record" and event.value == "unmeasured" and "restarted" in event.reason):
            record(self, event)

    return patch.object(Turn, "record", some)


# The degraded queue.


def depth_26() -> AbstractContextManager[object]:
    """One request too many is held."""
    return patch.object(world, "Limits", lambda **changes: Limits(degraded_depth=26, **changes))


def six_rescued() -> AbstractContextManager[object]:
    """Rescued tasks take more places than they may."""
    return patch.object(rescues, "_has_place", lambda turn: True)


def expiry_does_not_win() -> AbstractContextManager[object]:
    """At exactly the limit a request still waits."""
    expire = routing.expire_held

    def late(turn: Turn, task_id: TaskId) -> None:
        since_s = turn.state.held.get(task_id)
        if since_s is not None and turn.now_s > since_s + turn.state.limits.degraded_wait_s:
            expire(turn, task_id)

    return patch.object(routing, "expire_held", late)


def timer_is_late() -> AbstractContextManager[object]:
    """The engine looks at what is due half a second late."""
    arm = engine.Engine._arm_timer

    def lazy(self: engine.Engine) -> None:
        due = self._core.next_due_s
        with patch.object(self._core, "next_due_s", lambda: None if due() is None else (due() or 0.0) + 0.5):
            arm(self)

    return patch.object(engine.Engine, "_arm_timer", lazy)


def place_kept_after_hang_up() -> AbstractContextManager[object]:
    """A caller that goes away leaves its place taken."""
    return patch.object(QueueState, "_caller_left", lambda self, turn, task_id, may_return: None)


def newest_first() -> AbstractContextManager[object]:
    """The newest held request goes first."""
    hold = routing._hold

    def behind(turn: Turn, task: Task, since_s: float) -> None:
        hold(turn, task, since_s)
        turn.state.held = dict(reversed(turn.state.held.items()))

    return patch.object(routing, "_hold", behind)


def held_are_passed() -> AbstractContextManager[object]:
    """A new request enters the queue before those that are held for it."""
    return patch.object(routing, "take_held", lambda turn, model: None)


def no_turns() -> AbstractContextManager[object]:
    """Callers of a queue do not take turns."""
    return patch.object(FairQueue, "take", FairQueue.remove)


# Idempotency, watching, repeatability.


def duplicate_not_joined() -> AbstractContextManager[object]:
    """A repetition of a request that is held begins anew."""
    submit = submissions.Submissions._submit_keyed

    async def alone(self: submissions.Submissions, submission: Any) -> Any:
        self._keyed.pop((submission.owner, submission.request_id), None)
        return await submit(self, submission)

    return patch.object(submissions.Submissions, "_submit_keyed", alone)


def duplicate_not_looked_up() -> AbstractContextManager[object]:
    """A repetition of a request that was accepted begins anew."""

    async def nothing(self: ModelStore, owner: str, request_id: str) -> None:
        return None

    return patch.object(ModelStore, "task_of_request", nothing)


def other_body_accepted() -> AbstractContextManager[object]:
    """The same key with another body gets the first one's task."""
    return patch.object(submissions, "fingerprint", lambda request: "same")


def _shifted_watch(by: int) -> AbstractContextManager[object]:
    def shifted(**fields: Any) -> EventQuery:
        after = fields.pop("after")
        return EventQuery(after=after + by if after else 0, **fields)

    return patch.object(watching, "EventQuery", shifted)


def event_skipped() -> AbstractContextManager[object]:
    """A watcher that comes back misses an event."""
    return _shifted_watch(1)


def event_repeated() -> AbstractContextManager[object]:
    """A watcher that comes back is told an event again."""
    return _shifted_watch(-1)


def reader_misses_bell() -> AbstractContextManager[object]:
    """Who follows all events is not woken."""
    recorded = watching.Watching.recorded

    def deaf(self: watching.Watching, event: Event) -> None:
        followers, self._followers = self._followers, 0
        recorded(self, event)
        self._followers = followers

    return patch.object(watching.Watching, "recorded", deaf)


@contextmanager
def not_repeatable() -> Iterator[None]:
    """The core decides by chance."""
    random = SystemRandom()

    def any_of(self: FairQueue) -> TaskId | None:
        waiting = list(self._head) or [task_ids[0] for task_ids in self._by_owner.values()]
        return random.choice(waiting) if waiting else None

    with patch.object(FairQueue, "peek", any_of), patch("tests.simulation.invariants.MAX_TURNS", 10**6):
        yield


FAULTS = (
    Fault("reply_before_persist", reply_before_persist, "is accepted in a reply and not on disk"),
    Fault("send_before_persist", send_before_persist, "no lease for it is on disk"),
    Fault("lease_not_persisted", lease_not_persisted, "no lease for it"),
    Fault("epoch_guard_off", epoch_guard_off, "wrote, and"),
    Fault("cancel_told_too_early", cancel_told_too_early, "was cancelled in a reply and goes on"),
    Fault("fencing_forgotten", fencing_forgotten, "is committed"),
    Fault("attempt_number_reused", attempt_number_reused, "started twice"),
    Fault("lease_kept_after_loss", lease_kept_after_loss, ""),
    Fault("old_boots_are_heard", old_boots_are_heard, "went back to"),
    Fault("lease_ends_at_restart", lease_ends_at_restart, "ran out after"),
    Fault("fourth_attempt", fourth_attempt, "goes on after 3 lost lanes"),
    Fault("drain_ignored", drain_ignored, "which is drained"),
    Fault("leased_forgotten_at_restart", leased_forgotten_at_restart, ""),
    Fault("withdrawn_forgotten_at_restart", withdrawn_forgotten_at_restart, "never said that the GPU is free"),
    Fault("cancelled_runs_again", cancelled_runs_again, "was cancelled and became"),
    Fault("cancelled_is_done_later", cancelled_is_done_later, ""),
    Fault("committed_files_removed", committed_files_removed, "are removed, and it is"),
    Fault("operators_forgotten_at_restart", operators_forgotten_at_restart, "forgot what was said"),
    Fault("memory_recorded_twice", memory_recorded_twice, "two memory records"),
    Fault("memory_of_lost_lane_missing", memory_of_lost_lane_missing, "has no memory record"),
    Fault("depth_26", depth_26, "are held and"),
    Fault("six_rescued", six_rescued, "rescued"),
    Fault("expiry_does_not_win", expiry_does_not_win, "is held for"),
    Fault("timer_is_late", timer_is_late, "overloaded after 30."),
    Fault("place_kept_after_hang_up", place_kept_after_hang_up, "for a caller that left"),
    Fault("newest_first", newest_first, "was taken before"),
    Fault("held_are_passed", held_are_passed, "was taken before"),
    Fault("no_turns", no_turns, "turns in a row"),
    Fault("duplicate_not_joined", duplicate_not_joined, "idempotency key"),
    Fault("duplicate_not_looked_up", duplicate_not_looked_up, "idempotency key"),
    Fault("other_body_accepted", other_body_accepted, "was asked"),
    Fault("event_skipped", event_skipped, "saw events"),
    Fault("event_repeated", event_repeated, "was told event"),
    Fault("reader_misses_bell", reader_misses_bell, "reader of all events"),
    Fault("not_repeatable", not_repeatable, "the same seed is another history"),
)
