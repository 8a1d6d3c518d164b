"""Who waits for the acceptance of what: one asking for each task, shared by every caller that sent the same idempotency key."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from admission.core.tasks import Task, TaskId
from admission.engine_types import Accepted, RequestReusedError, Submission
from admission.store.port import Store, StoreUnavailableError
from runtime.rules.parameters import to_parameters

if TYPE_CHECKING:
    from runtime.rules.request import GenerationRequest


@dataclass(slots=True, kw_only=True, eq=False)
class Asking:
    """One request on its way to acceptance.

    Attributes:
        fingerprint: of the request; empty without an idempotency key.
        may_return: some caller can ask again, so that what was accepted goes on when all of them are gone.
        callers: how many wait.
        task_id: set just before it is put before the core.
        is_left: it was accepted when its last caller went, so that it may be cancelled by now; that is not on disk yet.
    """

    submission: Submission
    fingerprint: str = ""
    may_return: bool = False
    callers: int = 0
    task_id: TaskId | None = None
    is_left: bool = False


def fingerprint(request: GenerationRequest) -> str:
    """SHA-256 (hex) of what is asked for, the same for the same values however they were written."""
    return hashlib.sha256(_JSON.encode(to_parameters(request)).encode()).hexdigest()


# Made once: `json.dumps` would make it at every call.
_JSON = json.JSONEncoder(sort_keys=True)


class Submissions:
    """Owns every caller that waits. The engine gives the answers."""

    def __init__(
        self,
        store: Store,
        new_id: Callable[[], str],
        ask: Callable[[Asking, TaskId], None],
        leave: Callable[[Asking, TaskId], bool],
        settled: Callable[[TaskId], Awaitable[Task | None]],
    ) -> None:
        """The engine's: `ask` puts a task before the core; `leave` says that its callers are gone, and returns whether it was accepted;
        `settled` gives an accepted task as it stands once all that is decided is on disk."""
        self._store = store
        self._new_id = new_id
        self._ask = ask
        self._leave = leave
        self._settled = settled
        self._answers: dict[TaskId, asyncio.Future[Accepted]] = {}
        self._keyed: dict[tuple[str, str], tuple[Asking, asyncio.Future[Accepted]]] = {}
        self._is_closed = False

    async def submit(self, submission: Submission) -> Accepted:
        """Returns once the task is durable; see `Controller.submit`."""
        if submission.request_id:
            return await self._submit_keyed(submission)
        asking = Asking(submission=submission)
        try:
            return await self._accepted(asking)
        except asyncio.CancelledError:
            if asking.task_id is not None:
                self._leave(asking, asking.task_id)
            raise

    def answer(self, task_id: TaskId, answer: Task | Exception) -> None:
        """Tells whoever waits for this task; nobody may."""
        future = self._answers.get(task_id)
        if future is None or future.done():
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(Accepted(task=answer))

    async def submit_together(
        self,
        submissions: Sequence[Submission],
        *,
        would_hold: Callable[[Submission], bool],
        is_held: Callable[[TaskId], bool],
        all_asked: Callable[[], None],
    ) -> list[Accepted | Exception | None]:
        """Returns when all are durable or refused; see `Controller.submit_together`. `all_asked` is called when all are before the core."""
        begun = [self._begin(one, would_hold, is_held) for one in submissions]
        all_asked()
        running = {answer for _, answer in filter(None, begun)}
        try:
            while running:
                # Leaves alone what it waits for: others may have joined.
                _, running = await asyncio.wait(running)
        except asyncio.CancelledError:
            for asking, answer in filter(None, begun):
                self._left_by_one(asking, answer)
            raise
        return [None if one is None else _outcome(one[1]) for one in begun]

    def _begin(
        self, submission: Submission, would_hold: Callable[[Submission], bool], is_held: Callable[[TaskId], bool]
    ) -> tuple[Asking, asyncio.Future[Accepted]] | None:
        """Puts a request before the core now; None when it would be held, when it cannot be told without looking in the store whether its
        key is new, and when it was held after all: then its place is free again. An error is the answer: others may have been accepted."""
        key = (submission.owner, submission.request_id)
        if not _is_new(submission) or key in self._keyed or self._is_closed:
            return None
        asking = Asking(submission=submission, callers=1)
        answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        try:
            if would_hold(submission):
                return None
            asking.fingerprint = fingerprint(submission.request)
            asking.task_id = task_id = TaskId(self._new_id())
            self._answers[task_id], self._keyed[key] = answer, (asking, answer)
            answer.add_done_callback(lambda done: self._ended(key, done, task_id))
            self._ask(asking, task_id)
            is_undone = is_held(task_id)
        except Exception as error:
            answer.set_exception(error)
            return asking, answer
        if is_undone:
            self._left_by_one(asking, answer)
            return None
        return asking, answer

    async def close(self) -> None:
        """Nobody is answered any more: all get StoreUnavailableError."""
        self._is_closed = True
        running = [running for _, running in self._keyed.values()]
        for future in self._answers.values():
            if not future.done():
                future.set_exception(StoreUnavailableError("admission stops"))
        await asyncio.gather(*running, return_exceptions=True)

    async def _submit_keyed(self, submission: Submission) -> Accepted:
        """Joins the asking of the same key, or begins it."""
        key = (submission.owner, submission.request_id)
        told = fingerprint(submission.request)
        running: asyncio.Future[Accepted]
        known = self._keyed.get(key)
        if known is None:
            asking = Asking(submission=submission, fingerprint=told)
            running = asyncio.create_task(self._found_or_accepted(asking), name="submit-keyed")
            self._keyed[key] = (asking, running)
            running.add_done_callback(lambda done: self._ended(key, done))
        else:
            asking, running = known
            if asking.fingerprint != told:
                raise RequestReusedError
        asking.may_return |= not submission.abandon
        asking.callers += 1
        try:
            accepted = await asyncio.shield(running)
            if known is None:
                return accepted
            return Accepted(task=await self._as_it_stands(accepted.task) if asking.is_left else accepted.task, is_duplicate=True)
        finally:
            self._left_by_one(asking, running)

    def _left_by_one(self, asking: Asking, running: asyncio.Future[Accepted]) -> None:
        """A caller is gone. When it was the last, a task that is accepted but not on disk yet keeps its key, or a second one could be made
        under it."""
        asking.callers -= 1
        if asking.callers or running.done():
            return
        if asking.task_id is not None and self._leave(asking, asking.task_id):
            asking.is_left = not asking.may_return
        else:
            self._keyed.pop((asking.submission.owner, asking.submission.request_id), None)
            running.cancel()

    def _ended(self, key: tuple[str, str], running: asyncio.Future[Accepted], task_id: TaskId | None = None) -> None:
        if task_id is not None:
            del self._answers[task_id]
        if not running.cancelled():
            # Asked for here, so that it is not reported as never retrieved when every caller is gone.
            running.exception()
        known = self._keyed.get(key)
        if known is not None and known[1] is running:
            del self._keyed[key]

    async def _found_or_accepted(self, asking: Asking) -> Accepted:
        submission = asking.submission
        task = None if _is_new(submission) else await self._store.task_of_request(submission.owner, submission.request_id)
        if task is None:
            return await self._accepted(asking)
        if task.fingerprint != asking.fingerprint:
            raise RequestReusedError
        # A client's own key is never cancelled for it, and is told without a write.
        return Accepted(task=await self._as_it_stands(task) if submission.abandon else task, is_duplicate=True)

    async def _as_it_stands(self, task: Task) -> Task:
        """Of one whose callers may have gone: it is cancelled then, and whoever comes back must not take it for accepted."""
        return await self._settled(task.task_id) or task

    async def answered(self, task_id: TaskId, ask: Callable[[], None]) -> Accepted:
        """Runs `ask`, which puts a task of this id before the core, and returns or raises what the engine answers."""
        if self._is_closed:
            msg = "admission stops"
            raise StoreUnavailableError(msg)
        answer: asyncio.Future[Accepted] = asyncio.get_running_loop().create_future()
        self._answers[task_id] = answer
        try:
            ask()
            return await answer
        finally:
            del self._answers[task_id]

    def _accepted(self, asking: Asking) -> Awaitable[Accepted]:
        """To be awaited at once: the asking has its task's id."""
        asking.task_id = task_id = TaskId(self._new_id())
        return self.answered(task_id, partial(self._ask, asking, task_id))


def _outcome(answer: asyncio.Future[Accepted]) -> Accepted | Exception:
    error = answer.exception()
    if error is None:
        return answer.result()
    if isinstance(error, Exception):
        return error
    raise error


def _is_new(submission: Submission) -> bool:
    """A caller that makes a key for one request, to repeat it should the answer be lost, sends it for the first time. If that is not so,
    the store refuses a second task under it."""
    return bool(submission.request_id) and submission.abandon and submission.waited_s == 0
