"""What the services need of the rest of admission."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from admission.core.lanes import Report
    from admission.core.tasks import Event, Task, TaskId
    from admission.engine_types import LaneWish, Snapshot, TaskView
    from admission.store.port import Session, TaskPage, TaskQuery
    from runtime.rules.request import GenerationRequest


class Controller(Protocol):
    """Rules over tasks and lanes. Every call but `snapshot` and `open_lane` may raise StoreUnavailableError."""

    async def submit(self, request: GenerationRequest, owner: str) -> Task:
        """Accepts a checked request as a durable task; waits while it is held.

        Cancelling the caller's asyncio task gives its place back. Raises OverloadedError.
        """
        ...

    async def task(self, task_id: TaskId) -> TaskView | None:
        """The task as it stands; None when it is unknown."""
        ...

    async def task_events(self, task_id: TaskId) -> tuple[Event, ...]:
        """What happened to the task, oldest first."""
        ...

    def watch(self, task_id: TaskId) -> AsyncGenerator[TaskView, None]:
        """The newest state now and after every change, merged when the reader is slow; ends after a terminal one.

        Raises UnknownTaskError.
        """
        ...

    async def page(self, query: TaskQuery) -> TaskPage:
        """One page of tasks."""
        ...

    async def cancel(self, task_id: TaskId) -> TaskView:
        """Cancels unless it is terminal already; the task afterwards. Raises UnknownTaskError."""
        ...

    async def delete(self, task_id: TaskId) -> None:
        """Forgets the task and its files, cancelling it first. Raises UnknownTaskError."""
        ...

    def open_lane(self) -> LaneSession:
        """A session for one Attach stream."""
        ...

    def snapshot(self) -> Snapshot:
        """Everything at one instant."""
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


class Sessions(Protocol):
    """Keeps generation sessions; raises StoreUnavailableError."""

    async def add_session(self, session: Session) -> None:
        """Stores a session durably."""
        ...

    async def session(self, token_sha256: str) -> Session | None:
        """The session of this token, ended or not."""
        ...
