"""A process of its own that writes batches, so that the event loop and the writer do not wait for each other's interpreter."""

from __future__ import annotations

import asyncio
import marshal
import os
import socket
import subprocess
import sys
from typing import cast

from admission.store.batches import Rows
from admission.store.database import ConflictError
from admission.store.port import StaleEpochError, StoreUnavailableError
from admission.store.writer_program import BUG, CONFLICT, LENGTH_BYTES, STALE, STORED, Answer, frame

# From its start to its first word, on a machine that has other things to do.
_START_S = 30.0
# Beyond the time that it waits for another writer's lock: a disk may be slow, a process that is stopped never answers.
_PATIENCE_S = 20.0
# For a process that only has to see that its input has ended.
_END_S = 5.0


class WriterLostError(Exception):
    """The process ended, or does not answer: what it was given is stored or not."""


class NotPlainError(Exception):
    """The rows hold what cannot travel; nothing was sent."""


class WriterProcess(asyncio.Protocol):
    """One process and the socket to it. One batch at a time; whoever is lost stays lost: make another one.

    It hears the socket itself, as a stream and a task for each batch would cost more than the batch.
    """

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        """Nothing is started yet. `url` names a SQLite file."""
        self._url = url
        self._busy_timeout_s = busy_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._heard_bytes = b""
        # What is waited for. Never cancelled: an answer that nobody wants any more must still be taken, or the next one would be it.
        self._answer: asyncio.Future[object] | None = None
        self._lost_by = ""

    async def start(self) -> None:
        """Returns when it waits for batches.

        Raises:
            WriterLostError: it did not come up.
        """
        ours, theirs = socket.socketpair()
        try:
            spawning = asyncio.create_task(asyncio.to_thread(self._spawn, theirs), name="store-writer-spawn")
            try:
                self._process = await asyncio.shield(spawning)
            except asyncio.CancelledError:
                # It is under way with the socket; what comes of it must have an owner.
                self._process = await spawning
                raise
            first = self._expected(_START_S)
            self._transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
            await asyncio.shield(first)
        except BaseException as error:
            if self._transport is None:
                ours.close()
            await self.end()
            if isinstance(error, OSError):
                msg = f"the writer's process could not be started: {type(error).__name__}"
                raise WriterLostError(msg) from error
            raise
        finally:
            theirs.close()

    async def write(self, epoch: int, rows: Rows, *, in_doubt: int | None) -> int:
        """Stores the batch; the number of the newest event.

        Raises:
            NotPlainError: nothing was sent.
            ValueError: the process could not store it: a bug.
            StaleEpochError, ConflictError, StoreUnavailableError: nothing was stored.
            WriterLostError: that is not known, and there is no process any more.
        """
        try:
            message = frame((epoch, in_doubt, tuple(rows)))
        except ValueError as error:
            raise NotPlainError from error
        await self.settled()
        if self._transport is None or self._lost_by:
            raise WriterLostError(self._lost_by)
        answer = self._expected(self._busy_timeout_s + _PATIENCE_S)
        self._transport.write(message)
        kind, what = cast("Answer", await asyncio.shield(answer))
        if kind == STORED:
            return cast("int", what)
        text = cast("str", what)
        if kind == STALE:
            raise StaleEpochError(text)
        if kind == CONFLICT:
            raise ConflictError(text)
        if kind == BUG:
            msg = f"the writer's process could not store a batch: {text}"
            raise ValueError(msg)
        raise StoreUnavailableError(text)

    async def settled(self) -> None:
        """Returns when nothing is under way, of a write that was cancelled either."""
        if self._answer is not None and not self._answer.done():
            await asyncio.wait((self._answer,))

    async def end(self) -> None:
        """Waits for what was handed over, then ends the process, by force if it does not go. May be called twice."""
        if self._transport is not None:
            await self.settled()
            self._transport.close()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_ended, process)

    def data_received(self, data: bytes) -> None:
        """Puts what comes together."""
        self._heard_bytes += data
        length = LENGTH_BYTES + int.from_bytes(self._heard_bytes[:LENGTH_BYTES], "big")
        if len(self._heard_bytes) >= max(length, LENGTH_BYTES + 1):
            body, self._heard_bytes = self._heard_bytes[LENGTH_BYTES:length], self._heard_bytes[length:]
            self._hear(marshal.loads(body))  # noqa: S302 - the process that we started wrote it

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone, or about to."""
        self._lose("it ended")

    def _expected(self, patience_s: float) -> asyncio.Future[object]:
        """The next answer."""
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        timer = loop.call_later(patience_s, self._lose, f"it did not answer for {patience_s:g} s")

        def settle(_: object) -> None:
            timer.cancel()
            # Asked for, so that it is not reported as never retrieved when nobody waits any more.
            answer.exception()

        answer.add_done_callback(settle)
        return answer

    def _hear(self, value: object) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(value)

    def _lose(self, how: str) -> None:
        """Whatever is waited for does not come any more."""
        self._lost_by = self._lost_by or f"the writer's process was lost: {how}"
        if self._process is not None:
            # One that is only stopped would go on with its transaction when it is continued.
            self._process.kill()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WriterLostError(self._lost_by))

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "admission.store.writer_program", self._url, str(self._busy_timeout_s), str(theirs.fileno())]
        # A clean environment: it needs no key and no setting.
        environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)


def _ended(process: subprocess.Popen[bytes]) -> None:
    """Blocks."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
