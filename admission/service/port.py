"""What the services need of the rest of admission."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from contextlib import AbstractAsyncContextManager

    from admission.access_types import AdminAnswer, AdminCall, CheckedSession, Rate
    from admission.core.lanes import Report
    from admission.core.refusals import ModelLimits
    from admission.core.tasks import Event, LaneId, Model, Task, TaskId
    from admission.engine_types import Accepted, LaneView, LaneWish, QueueView, Snapshot, Submission, TaskChange, TaskView
    from admission.store.access_port import AuditEntry, Session
    from admission.store.port import EventPage, EventQuery, TaskPage, TaskQuery


class Controller(Protocol):
    """Rules over tasks and lanes. Every call but `snapshot`, `model_limits` and `open_lane` may raise StoreUnavailableError."""

    async def submit(self, submission: Submission) -> Accepted:
        """Accepts a checked request as a durable task; waits while it is held. A known request_id gives the task it made before.

        Cancelling the caller's asyncio task gives its place back. Raises OverloadedError, RefusedError, or RequestReusedError when the
        key was used for another request.
        """
        ...

    async def submit_together(self, submissions: Sequence[Submission]) -> list[Accepted | Exception | None]:
        """Accepts or refuses, at once and in this order, those that need not be held and whose request_id must be new; returns when that is
        durable. Of each its acceptance, what `submit` would raise, or None: nothing was done, submit it by itself.

        Cancelling the caller's asyncio task leaves all of them.
        """
        ...

    async def task(self, task_id: TaskId) -> TaskView | None:
        """The task as it stands; None when it is unknown."""
        ...

    async def task_events(self, task_id: TaskId) -> tuple[Event, ...]:
        """What happened to the task, oldest first."""
        ...

    def watch(self, task_id: TaskId, after_sequence: int = 0) -> AsyncGenerator[TaskChange, None]:
        """The newest state now and after every change, merged when the reader is slow, with every event after `after_sequence`.

        Events are never merged or skipped. Ends after the terminal state and the last memory record. Raises UnknownTaskError; when it goes
        on from a sequence, StaleEpochError if another admission rules by now.
        """
        ...

    def watch_events(self, query: EventQuery, *, only_new: bool, follow: bool) -> AsyncGenerator[EventPage, None]:
        """Stored events in pages of at most the query's limit, then (`follow`) each that is recorded; no event is skipped.

        With `only_new` it begins behind the newest stored one. A page may be empty when only its last_sequence moved on.
        """
        ...

    async def drain_lane(self, lane_id: LaneId, *, drained: bool) -> LaneView:
        """Gives the lane no more work, or work again; durable. Raises UnknownLaneError."""
        ...

    async def set_fallback(self, model: Model, *, enabled: bool) -> QueueView:
        """Sends the model to the pool, or no longer; durable. The model is one of the rule set."""
        ...

    async def report_capacity(self, model: Model, *, denied_for_s: float | None, reason: str) -> QueueView:
        """The quota for lanes of the model is denied for so long, or (None) granted; durable. The model is one of the rule set."""
        ...

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks."""
        ...

    async def cancel(self, task_id: TaskId, *, only_waiting: bool = False) -> TaskView:
        """Cancels unless it ended or, with `only_waiting`, a lane has had it; the task afterwards. Raises UnknownTaskError."""
        ...

    async def delete(self, task_id: TaskId) -> None:
        """Forgets the task and its files, cancelling it first. Raises UnknownTaskError."""
        ...

    def importing(self, task_id: TaskId) -> AbstractAsyncContextManager[Landing | None]:
        """Takes a task of an earlier system over, alone with its id; None when there is one of this id. Left without a commit, nothing
        stays of it."""
        ...

    def open_lane(self) -> LaneSession:
        """A session for one Attach stream."""
        ...

    def model_limits(self, model: Model) -> ModelLimits:
        """What a client may ask of the model, by what is known now. The model is one of the rule set."""
        ...

    def snapshot(self) -> Snapshot:
        """Everything at one instant."""
        ...


class Landing(Protocol):
    """An import under way. Every method but `key` may raise StoreUnavailableError."""

    def key(self, name: str) -> str:
        """The object key of a file of this name."""
        ...

    async def write(self, name: str, chunk: bytes) -> None:
        """Adds to the file of this name."""
        ...

    async def commit(self, task: Task) -> None:
        """Stores the files and the ended task, of this id and with these keys; returns when all is durable."""
        ...


class LaneSession(Protocol):
    """One Attach stream as the engine sees it."""

    number: int
    """Given by the engine; reports of this stream carry it."""

    async def report(self, report: Report) -> None:
        """Takes the lane's state; its session is `number`. Raises InvalidReportError when it contradicts what is known."""
        ...

    async def next_wish(self) -> LaneWish:
        """Waits for a wish that was not returned yet; the newest one. Raises SessionEndedError when the stream is over."""
        ...

    async def close(self) -> None:
        """The stream ended. May be called twice."""
        ...


class AccessController(Protocol):
    """Sessions, the audit log and rates. Every call but `count` may raise StoreUnavailableError; none has done anything then."""

    async def create_session(self, rate: Rate | None) -> tuple[Session, str]:
        """A new generation session, durable, and its token. Raises RateLimitedError."""
        ...

    async def check_session(self, token: str, generations_per_minute: int) -> CheckedSession:
        """What a token is worth; an ACTIVE one uses up a generation unless their number is 0. Raises RateLimitedError."""
        ...

    def count(self, rate: Rate) -> None:
        """Counts an event. Raises RateLimitedError."""
        ...

    async def open_admin_session(self, call: AdminCall) -> AdminAnswer:
        """Opens a session for the right key. What is decided is in the audit log, as for the next two."""
        ...

    async def authorize_admin(self, call: AdminCall) -> AdminAnswer:
        """Lets a call in or not, and renews its session."""
        ...

    async def close_admin_session(self, call: AdminCall) -> AdminAnswer:
        """Ends a session."""
        ...

    async def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """The newest entries, newest first."""
        ...
