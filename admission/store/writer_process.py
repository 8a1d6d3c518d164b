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


class WriterProcess:
    """One process and the socket to it. One batch at a time; whoever is lost stays lost: make another one."""

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        """Nothing is started yet. `url` names a SQLite file."""
        self._url = url
        self._busy_timeout_s = busy_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._asking: asyncio.Task[Answer] | None = None

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
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            await asyncio.wait_for(self._read(), _START_S)
        except BaseException as error:
            ours.close()
            await self.end()
            if isinstance(error, OSError | EOFError | TimeoutError):
                msg = f"the writer's process did not come up: {type(error).__name__}"
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
        # In a task of its own: who waits may be cancelled, the answer must still be read, or the next one would be taken for it.
        asking = self._asking = asyncio.create_task(self._ask(message), name="store-writer-process")
        kind, what = await asyncio.shield(asking)
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
        """Returns when nothing is under way. Of a write that was cancelled, the answer comes all the same, and is nobody's."""
        if self._asking is not None:
            await asyncio.gather(self._asking, return_exceptions=True)

    async def end(self) -> None:
        """Waits for what was handed over, then ends the process, by force if it does not go. May be called twice."""
        await self.settled()
        if self._writer is not None:
            self._writer.close()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(_ended, process)

    async def _ask(self, message: bytes) -> Answer:
        assert self._writer is not None  # noqa: S101 - for the type checker: `start` came first
        try:
            async with asyncio.timeout(self._busy_timeout_s + _PATIENCE_S):
                self._writer.write(message)
                await self._writer.drain()
                return cast("Answer", await self._read())
        except (OSError, EOFError, TimeoutError) as error:
            if self._process is not None:
                # One that is only stopped would go on with its transaction when it is continued.
                self._process.kill()
            msg = f"the writer's process was lost: {type(error).__name__}"
            raise WriterLostError(msg) from error

    async def _read(self) -> object:
        length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
        return marshal.loads(await self._reader.readexactly(length))  # noqa: S302 - the process that we started wrote it

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
