"""Virtual time: an event loop that jumps to the next timer, and processes that can die or freeze at any step."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import math
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any

TICKS_PER_S = 2**20
"""Times are whole ticks, so that sums of them are exact in floating point and a timer never fires a rounding error too early."""

# A history of this many steps does not end by itself.
_MAX_STEPS = 3_000_000

_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated_process", default=None)


def in_ticks(seconds: float) -> float:
    """The time, rounded up to a tick."""
    return math.ceil(seconds * TICKS_PER_S) / TICKS_PER_S


class Handle:
    """A callback that was asked for."""

    __slots__ = ("_when", "args", "callback", "context", "is_cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...], context: Context, when: float) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.is_cancelled = False
        self._when = when

    def cancel(self) -> None:
        """It shall not run."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """As of asyncio's handles."""
        return self.is_cancelled

    def when(self) -> float:
        """As of asyncio's timer handles."""
        return self._when


class Loop(asyncio.AbstractEventLoop):
    """What asyncio's own futures, tasks, events and timeouts need of a loop, and no more: no threads, no sockets, no real time.

    Callbacks that are ready run in their order, as asyncio promises; timers of the same instant run in seeded random order.
    """

    def __init__(self, random: Random) -> None:
        self.failures: list[str] = []
        self.steps = 0
        self._random = random
        self._now_s = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, int, Handle]] = []
        self._asked = 0
        self._is_closed = False
        self._tasks: list[asyncio.Task[Any]] = []

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._is_closed

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context(), self._now_s)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        when = max(self._now_s, in_ticks(when))
        handle = Handle(callback, args, context if context is not None else contextvars.copy_context(), when)
        self._asked += 1
        heapq.heappush(self._timers, (when, self._random.getrandbits(16), self._asked, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        # Kept to the end: a task of a dead process must not be collected, which would run its cleanup.
        self._tasks.append(task)
        return task

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._is_closed:
            self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def run_until(self, is_over: Callable[[], bool], until_s: float) -> None:
        """Runs until `is_over`, until nothing is left to do, or up to this time, which it is then."""
        events._set_running_loop(self)
        try:
            while not is_over() and not self.failures:
                if self._ready:
                    self._step(self._ready.popleft())
                elif not self._jump(until_s):
                    return
        finally:
            events._set_running_loop(None)

    def dispose(self) -> None:
        """Ends what is left without letting it do anything."""
        self._is_closed = True
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if not task.done():
                coroutine = task.get_coro()
                with contextlib.suppress(BaseException):
                    coroutine.close()
            elif not task.cancelled():
                task.exception()
        self._ready.clear()
        self._timers.clear()

    def _jump(self, until_s: float) -> bool:
        """Goes to the next timer and makes it ready; False when there is none until then."""
        while self._timers and self._timers[0][3].is_cancelled:
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0][0] > until_s:
            self._now_s = max(self._now_s, until_s)
            return False
        when, _, _, handle = heapq.heappop(self._timers)
        self._now_s = max(self._now_s, when)
        self._ready.append(handle)
        return True

    def _step(self, handle: Handle) -> None:
        if handle.is_cancelled:
            return
        process = handle.context.get(_PROCESS)
        if process is not None and not process.may_run(handle):
            return
        self.steps += 1
        if self.steps > _MAX_STEPS:
            self.failures.append("the history does not end")
        try:
            handle.context.run(handle.callback, *handle.args)
        except Exception as error:
            self.failures.append(f"{error!r} in {handle.callback!r}")


class Process:
    """Something that dies whole: from then on nothing runs that it had asked for. It can also freeze for a while."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.is_frozen = False
        self.steps_left: int | None = None
        self.on_death: Callable[[], None] = lambda: None
        self._loop = loop
        self._waiting: list[Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)

    def may_run(self, handle: Handle) -> bool:
        """Loop only: whether the process takes this step; a frozen one takes it later."""
        if not self.is_alive:
            return False
        if self.is_frozen:
            self._waiting.append(handle)
            return False
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.die()
                return False
        return True

    def call(self, function: Callable[..., Any], *args: object) -> Any:
        """Runs it now, as the process."""
        return self._context.copy().run(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Runs it in a task of the process."""
        return self._loop.create_task(coroutine, name=name, context=self._context.copy())

    def at(self, when_s: float, function: Callable[..., object], *args: object) -> Handle:
        """Runs it then, if the process still lives."""
        return self._loop.call_at(when_s, function, *args, context=self._context)

    def after(self, delay_s: float, function: Callable[..., object], *args: object) -> Handle:
        """Runs it so much later, if the process still lives."""
        return self._loop.call_at(self._loop.time() + delay_s, function, *args, context=self._context)

    def die(self) -> None:
        """kill -9."""
        if self.is_alive:
            self.is_alive = False
            self._waiting.clear()
            self._loop.call_soon(self.on_death, context=contextvars.Context())

    def freeze(self) -> None:
        """SIGSTOP."""
        self.is_frozen = True

    def go_on(self) -> None:
        """SIGCONT: what was due meanwhile runs now."""
        self.is_frozen = False
        for handle in self._waiting:
            self._loop.call_soon(_again, self._loop, handle, context=handle.context)
        self._waiting.clear()


def _again(loop: Loop, handle: Handle) -> None:
    if not handle.is_cancelled:
        handle.callback(*handle.args)


def seeded(number: float) -> Random:
    """Randomness that repeats itself."""
    return Random(number)  # noqa: S311 - nothing here is a secret
