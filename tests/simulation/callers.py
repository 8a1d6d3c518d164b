"""Simulated callers: they submit, repeat, hang up, cancel, delete and watch, over a network that loses connections."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from admission.core.tasks import Model, Task, TaskId
from admission.engine_types import NotYetStoredError, OverloadedError, RefusedError, RequestReusedError, Submission, UnknownTaskError
from admission.store.port import StoreUnavailableError
from runtime.rules.check import check_request
from runtime.rules.request import GenerationRequest
from tests.simulation.loop import seeded
from tests.simulation.watchers import Watcher

if TYPE_CHECKING:
    from admission.engine import Engine
    from tests.simulation.admissions import Admission
    from tests.simulation.world import World

_MAX_WAIT_S = 30.0
# A failed write is tried again up to 2 s later, and takes as long as a write may take; an acceptance may come with the second one.
_JOURNAL_PATIENCE_S = 3.0
_REPLIES_LOST = 0.01


# Side, frames: what fits the smallest lane (streamed, 275 MiB), some lanes (500), only large ones (2300), none (24 GiB).
SIZES = ((256, 9), (512, 9), (512, 81), (1024, 241))


@cache
def request_for(model: Model, prompt: str, size: tuple[int, int] = SIZES[0]) -> GenerationRequest:
    """A checked request."""
    side, frames = size
    return check_request({"model": str(model), "prompt": prompt, "seed": 7, "width": side, "height": side, "num_frames": frames})


@dataclass(slots=True, eq=False)
class Wanted:
    """A video that someone wants, and what became of it.

    Attributes:
        tries: how often it was asked for.
    """

    number: int
    submission: Submission
    asked_s: float
    tries: int = 0
    open_calls: int = 0
    task_id: TaskId | None = None
    answer: str = ""
    calls: list[Call] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Call:
    """One SubmitTask call, answered once."""

    wanted: Wanted
    submission: Submission
    admission: Admission | None = None
    handler: asyncio.Task[Any] | None = None
    answer: str = ""
    is_replied: bool = False
    has_hung_up: bool = False


class Callers:
    """All of them."""

    def __init__(self, world: World, random: Random) -> None:
        self.wanted: list[Wanted] = []
        self.watchers: list[Watcher] = []
        self._world = world
        self._random = random

    @property
    def open_calls(self) -> int:
        """Calls that wait for an answer."""
        return sum(wanted.open_calls for wanted in self.wanted)

    def submit(self, model: Model, owner: str, *, keyed: bool, size: tuple[int, int]) -> Wanted:
        """Someone wants a video."""
        number = len(self.wanted) + 1
        key = f"key-{number}" if keyed else ""
        submission = Submission(request=request_for(model, f"wish {number}", size), owner=owner, request_id=key)
        wanted = Wanted(number=number, submission=submission, asked_s=self._world.loop.time())
        self.wanted.append(wanted)
        self._ask(wanted, submission)
        return wanted

    def repeat(self, wanted: Wanted) -> None:
        """The same request again, while the first is held or after it was accepted."""
        if wanted.submission.request_id:
            self._world.tell(f"request {wanted.number} is repeated")
            self._ask(wanted, wanted.submission)

    def misuse(self, wanted: Wanted) -> None:
        """The same key with another body."""
        if wanted.submission.request_id:
            self._world.tell(f"the key of request {wanted.number} is used for another body")
            other = replace(wanted.submission, request=request_for(Model(wanted.submission.request.model), "something else"))
            self._ask(wanted, other)

    def hang_up(self, wanted: Wanted) -> None:
        """The caller goes away before the answer."""
        for call in wanted.calls:
            if not call.answer and not call.has_hung_up:
                call.has_hung_up = True
                self._world.tell(f"the caller of request {wanted.number} hangs up")
                self._settle(call, "hung up")
                if call.admission is not None:
                    call.admission.process.after(self._world.network.delay_s(), self._leave, call)

    def cancel(self, task_id: TaskId, *, then_delete: bool) -> None:
        """Someone cancels or deletes a task."""
        front = self._world.front()
        if front is None:
            return
        self._world.tell(f"{self._world.name_of(task_id)} is to be {'deleted' if then_delete else 'cancelled'}")
        if then_delete:
            self._world.checker.may_delete.add(task_id)
        front.spawn(self._cancel(front.engine, task_id, then_delete=then_delete), f"cancel-{task_id}")

    def watch(self, task_id: TaskId) -> None:
        """Someone watches a task to its end."""
        watcher = Watcher(self._world, task_id, seeded(self._random.random()))
        self.watchers.append(watcher)
        watcher.connect()

    def _ask(self, wanted: Wanted, submission: Submission) -> None:
        call = Call(wanted=wanted, submission=submission)
        wanted.tries += 1
        wanted.open_calls += 1
        wanted.calls.append(call)
        self._world.after(self._world.network.delay_s(), self._connect, call)

    def _connect(self, call: Call) -> None:
        if call.has_hung_up:
            return
        front = self._world.front()
        if front is None:
            self._world.after(self._world.network.delay_s(), self._answered, call, "unavailable", None)
            return
        call.admission = front
        call.handler = front.spawn(self._serve(call, front.engine), f"submit-{call.wanted.number}")
        front.calls[call.handler] = call

    async def _serve(self, call: Call, engine: Engine) -> None:
        began_s, submission, checker = self._world.loop.time(), call.submission, self._world.checker
        answer, task, is_late = "", None, False
        try:
            accepted = await engine.submit(submission)
            answer, task = "accepted", accepted.task
            self._check_accepted(submission, task)
        except OverloadedError as error:
            answer = "overloaded"
            held_s = self._world.loop.time() - began_s
            bound_s = max(0.0, _MAX_WAIT_S - submission.waited_s)
            is_late = held_s > bound_s + self._lookup_s(submission)
            if error.reply.cause == "wait" and not submission.request_id:
                # One with a key may have joined an earlier one.
                checker.expect(held_s >= bound_s, f"request {call.wanted.number} was refused after {held_s} s")
        except RefusedError:
            answer = "refused"
            checker.expect(submission.request.width > SIZES[0][0], f"request {call.wanted.number} is small and was refused")
        except StoreUnavailableError:
            answer = "unavailable"
        except RequestReusedError:
            answer = "reused"
            is_other = submission.request.prompt != call.wanted.submission.request.prompt or len(call.wanted.calls) > 1
            checker.expect(bool(submission.request_id) and is_other, f"request {call.wanted.number} was refused as a misuse")
        waited_s = self._world.loop.time() - began_s
        late_s = _MAX_WAIT_S + 3 * self._world.longest_write_s + _JOURNAL_PATIENCE_S
        is_on_time = (not is_late and waited_s <= late_s) or (call.admission is not None and call.admission.was_frozen)
        checker.expect(is_on_time, f"request {call.wanted.number} was answered {answer} after {waited_s:.6f} s")
        call.is_replied = True
        if self._random.random() < _REPLIES_LOST:
            answer, task = "lost", None
        self._world.after(self._world.network.delay_s(), self._answered, call, answer, task)

    def _lookup_s(self, submission: Submission) -> float:
        """A key is looked up in the store before the request is held."""
        return 0.01 if submission.request_id else 0.0

    def _check_accepted(self, submission: Submission, task: Task) -> None:
        name = self._world.name_of(task.task_id)
        is_same = task.parameters["prompt"] == submission.request.prompt and task.owner == submission.owner
        self._world.checker.expect(
            is_same, f"{name} was made of {task.parameters['prompt']!r}, and {submission.request.prompt!r} was asked"
        )
        self._world.checker.accepted(task)

    def _leave(self, call: Call) -> None:
        if call.handler is not None:
            call.handler.cancel()

    def connection_lost(self, call: Call) -> None:
        """The admission that had the call is gone, or stops."""
        if not call.is_replied:
            call.is_replied = True
            self._world.after(self._world.network.delay_s(), self._answered, call, "lost", None)

    def _settle(self, call: Call, answer: str) -> None:
        call.answer = answer
        call.wanted.open_calls -= 1

    def _answered(self, call: Call, answer: str, task: Task | None) -> None:
        wanted = call.wanted
        if call.has_hung_up:
            return
        self._world.checker.expect(not call.answer, f"request {wanted.number} was answered {call.answer} and then {answer}")
        self._settle(call, answer)
        if task is not None:
            wanted.task_id = task.task_id
        told = "" if task is None else f" as {self._world.name_of(task.task_id)}"
        self._world.tell(f"request {wanted.number} ({wanted.submission.owner}, {wanted.submission.request.model}) is {answer}{told}")
        wanted.answer = answer
        if answer in ("lost", "unavailable") and call.submission is wanted.submission:
            self._maybe_again(wanted)

    def _maybe_again(self, wanted: Wanted) -> None:
        if wanted.tries >= 4:
            return
        waited_s = self._world.loop.time() - wanted.asked_s
        if wanted.submission.request_id:
            self._world.after(0.5 + 3 * self._random.random(), self._ask, wanted, wanted.submission)
        elif wanted.tries == 1 and waited_s < _MAX_WAIT_S:
            # What the bridge does with a request that was held by an admission that went away.
            wanted.submission = replace(wanted.submission, waited_s=waited_s)
            self._world.after(0.5 + 2 * self._random.random(), self._ask, wanted, wanted.submission)

    async def _cancel(self, engine: Engine, task_id: TaskId, *, then_delete: bool) -> None:
        try:
            if then_delete:
                await engine.delete(task_id)
                self._world.checker.removed(task_id)
            else:
                await engine.cancel(task_id)
                self._world.checker.cancelled(task_id)
        except (NotYetStoredError, StoreUnavailableError, UnknownTaskError) as error:
            self._world.tell(f"that is answered {type(error).__name__}")
