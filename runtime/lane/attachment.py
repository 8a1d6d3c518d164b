"""One Attach stream to admission: sends reports, passes wishes on, and is always cancelled and awaited."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog
from warmlane.lane.v1 import dispatch_service_pb2 as pb

if TYPE_CHECKING:
    from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceAsyncStub

    AttachCall = grpc.aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse]

_log = structlog.get_logger()

_WRITE_S = 10.0
"""A report that cannot be handed to the transport in this time means that the stream is dead."""
_LAST_WORD_S = 1.0
_VERDICT_S = 0.1
_SPACING_S = 0.2
"""Reports that only tell progress keep this distance: at most five a second."""


class StreamEndedError(Exception):
    """The stream is over; the text says why, for the log.

    Attributes:
        is_refused: admission does not let this lane in; nothing gets better by itself.
    """

    def __init__(self, reason: str, *, is_refused: bool = False) -> None:
        """Keeps the reason."""
        super().__init__(reason)
        self.is_refused = is_refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What a stream speaks for. The agent owns it.

    Attributes:
        report: the lane's whole state as this stream's next report.
        on_wish: takes in what admission wishes; may raise StreamEndedError to leave the stream.
        interval_s: reports come at least so often, in seconds.
    """

    report: Callable[[int], pb.LaneReport]
    on_wish: Callable[[int, pb.DesiredState], None]
    interval_s: Callable[[], float]


class Attachment:
    """One stream. Its owner calls `close` on it, whatever happens."""

    def __init__(self, number: int, stub: DispatchServiceAsyncStub, talk: Talk) -> None:
        """Prepares the stream; numbers of later streams are higher."""
        self.number = number
        self._stub = stub
        self._talk = talk
        self._call: AttachCall | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_answered = asyncio.Event()
        self._is_changed = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def is_over(self) -> bool:
        """The stream was opened and has ended."""
        return self._task is not None and self._task.done()

    async def open(self, timeout_s: float) -> None:
        """Sends the first report and waits for the first answer.

        Raises:
            StreamEndedError: there was none in that time.
        """
        self._task = asyncio.create_task(self._run(), name=f"attach-{self.number}")
        answered = asyncio.create_task(self._is_answered.wait(), name=f"attach-{self.number}-answer")
        try:
            await asyncio.wait({self._task, answered}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
        if self._task.done():
            await self._task
        if not self._is_answered.is_set():
            msg = f"no answer within {timeout_s:g} s"
            raise StreamEndedError(msg)

    async def held(self, timeout_s: float) -> None:
        """Returns when the stream was open for so long. Raises StreamEndedError when it ends before."""
        if self._task is not None:
            done, _ = await asyncio.wait({self._task}, timeout=timeout_s)
            for task in done:
                await task

    def nudge(self, *, urgent: bool) -> None:
        """The lane's state changed: report it, at once when urgent, otherwise at most five times a second."""
        self._is_changed.set()
        if urgent:
            self._is_urgent.set()

    async def say_last(self) -> None:
        """Sends one more report before the lane goes away, if the stream still takes it."""
        if self._call is None or self._task is None or self._task.done():
            return
        with contextlib.suppress(TimeoutError, grpc.RpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(_LAST_WORD_S):
                await self._write(self._call)

    async def close(self) -> None:
        """Leaves the stream; never raises for how it ended."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        _consume(self._task)

    async def _run(self) -> None:
        """Reads and writes until the stream ends; always raises."""
        call = self._call = self._stub.Attach()
        reader = asyncio.create_task(self._read(call), name=f"attach-{self.number}-read")
        sender = asyncio.create_task(self._send(call), name=f"attach-{self.number}-send")
        try:
            done, _ = await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
            if reader not in done:
                # A report that cannot be sent does not know why; the end of the stream does, and it comes at once if it comes.
                done |= (await asyncio.wait({reader}, timeout=_VERDICT_S))[0]
            ended = [task for task in (reader, sender) if task in done]
            raise StreamEndedError("; ".join(map(_reason, ended)), is_refused=any(map(_is_refused, ended)))
        finally:
            # A call that is merely dropped is never freed by the library.
            call.cancel()
            reader.cancel()
            sender.cancel()
            await asyncio.wait({reader, sender})
            for task in (reader, sender):
                _consume(task)

    async def _read(self, call: AttachCall) -> None:
        while isinstance(response := await call.read(), pb.AttachResponse):
            self._talk.on_wish(self.number, response.desired)
            self._is_answered.set()
        msg = "admission closed the stream"
        raise StreamEndedError(msg)

    async def _send(self, call: AttachCall) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._is_changed.clear()
            self._is_urgent.clear()
            async with asyncio.timeout(_WRITE_S):
                await self._write(call)
            sent_s = loop.time()
            if await _is_set_within(self._is_changed, self._talk.interval_s()):
                await _is_set_within(self._is_urgent, sent_s + _SPACING_S - loop.time())

    async def _write(self, call: AttachCall) -> None:
        async with self._writing:
            await call.write(pb.AttachRequest(report=self._talk.report(self.number)))


async def _is_set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _consume(task: asyncio.Task[None]) -> None:
    """Asks for the task's exception, so that it is not reported as never retrieved."""
    if not task.cancelled():
        task.exception()


def _is_refused(task: asyncio.Task[None]) -> bool:
    error = None if task.cancelled() else task.exception()
    refusals = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in refusals


def _reason(task: asyncio.Task[None]) -> str:
    error = None if task.cancelled() else task.exception()
    match error:
        case grpc.aio.AioRpcError():
            return f"{error.code().name}: {error.details()}"
        case StreamEndedError():
            return str(error)
        case TimeoutError():
            return "a report could not be sent in time"
        case asyncio.InvalidStateError():
            return "the call was over"
        case None:
            return "ended"
        case _:
            _log.error("attach_failed", exc_info=error)
            return type(error).__name__
