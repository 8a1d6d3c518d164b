"""A pipeline process that says only what a test says, and an event loop on which an hour passes at once."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, ParamSpec

from runtime.lane.child_process import Exit
from runtime.lane.child_protocol import Command, Event

P = ParamSpec("P")

_KILLED = -9


class FakeChild:
    """In place of `ChildProcess`; it hangs unless a test has it say something.

    Attributes:
        commands: what it was sent.
        killed_s: time of the loop at which it was killed; None: it was not.
    """

    pid = 1

    def __init__(self) -> None:
        """Runs, and is silent."""
        self.commands: list[Command] = []
        self.killed_s: float | None = None
        self._code = _KILLED
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._ended = asyncio.Event()

    def send(self, command: Command) -> None:
        """Keeps it."""
        self.commands.append(command)

    def says(self, event: Event) -> None:
        """Has it tell the agent something."""
        self._events.put_nowait(event)

    async def events(self) -> AsyncIterator[Event]:
        """What the test had it say, until it is killed."""
        while (event := await self._events.get()) is not None:
            yield event

    def kill(self) -> None:
        """Ends it, unless it has ended."""
        if self._ended.is_set():
            return
        if self.killed_s is None:
            self.killed_s = asyncio.get_running_loop().time()
        self._ended.set()
        self._events.put_nowait(None)

    def exits(self, code: int) -> None:
        """Has it end by itself."""
        self._code = code
        self._ended.set()
        self._events.put_nowait(None)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it ended in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    async def end(self) -> Exit:
        """As the test had it exit; otherwise it is killed."""
        self.kill()
        return Exit(code=self._code)


class Children:
    """Every process that a worker started, oldest first."""

    def __init__(self) -> None:
        """None yet."""
        self.all: list[FakeChild] = []

    async def start(self, *, name: str, environment: Mapping[str, str]) -> FakeChild:
        """In place of `ChildProcess.start`."""
        self.all.append(FakeChild())
        return self.all[-1]


class _NoWaiting(selectors.DefaultSelector):
    """Waits for nothing; counts the time that it would have waited."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            msg = "the test waits for something that no timer brings"
            raise RuntimeError(msg)
        self.now_s += max(0.0, timeout)
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        return ready


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer when there is nothing to do; its time starts at 0. For tests without threads, sockets and processes."""

    def __init__(self) -> None:
        self._no_waiting = _NoWaiting()
        super().__init__(self._no_waiting)

    def time(self) -> float:
        return self._no_waiting.now_s


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an async test on such a loop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
