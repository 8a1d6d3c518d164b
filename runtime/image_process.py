"""Checks input images in processes of their own: none takes more time or memory than it may, or ends the server by a decoder's fault."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

from runtime.image_worker import LENGTH_BYTES, TOO_COSTLY
from runtime.images import CheckedImage, InvalidImageError

# From the last byte of a file to the answer, on a machine that has other things to do; the process itself is stopped after 2 s of work.
_PATIENCE_S = 30.0
# For a process that only has to see that its input has ended.
_END_S = 5.0
# A process that has seen so many files is replaced: what decoders leave behind would count against its limit of memory.
_MOST_FILES = 200

_log = structlog.get_logger()


class ImageCheckUnavailableError(Exception):
    """The image could not be looked at; that is not the image's fault, and a later try may do."""


class ImageProcesses:
    """A few processes, started when they are first needed. Use as a context manager: leaving ends them."""

    def __init__(self, at_once: int) -> None:
        """This many images are looked at at a time; further callers wait."""
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all = [_Worker() for _ in range(at_once)]
        for worker in self._all:
            self._free.put(worker)

    def __enter__(self) -> ImageProcesses:
        """Starts nothing yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the processes."""
        self.close()

    def close(self) -> None:
        """Ends the processes; what is looked at then is answered as unavailable, or as too costly."""
        for worker in self._all:
            worker.end()

    def check(self, content: bytes) -> CheckedImage:
        """As `runtime.images.check_image`. Blocks: call it in a thread.

        Raises:
            InvalidImageError: as `check_image`, and for what broke a limit.
            ImageCheckUnavailableError: no process could be started, or the machine is far too busy.
        """
        worker = self._free.get()
        try:
            answer = worker.ask(content)
        finally:
            self._free.put(worker)
        if "error" in answer:
            raise InvalidImageError(answer["error"])
        return CheckedImage(content=content, media_type=answer["media_type"], width=answer["width"], height=answer["height"])


class _Worker:
    """One process, and the next one when that has ended. One caller at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # Held while a file is looked at.
        self._busy = threading.Lock()
        self._files = 0
        self._is_over = False

    def ask(self, content: bytes) -> dict[str, Any]:
        with self._busy:
            return self._ask(content)

    def end(self) -> None:
        """Ends the process, and starts no other."""
        self._is_over = True
        process = self._process
        if process is not None:
            # Whoever waits for its answer is told, and lets go.
            process.kill()
        with self._busy:
            self._kill()

    def _ask(self, content: bytes) -> dict[str, Any]:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
        assert process.stdout is not None  # noqa: S101 - as above
        self._files += 1
        try:
            process.stdin.write(len(content).to_bytes(LENGTH_BYTES, "big"))
            process.stdin.write(content)
            process.stdin.flush()
            line = _line(process.stdout.fileno())
        except BrokenPipeError:
            line = b""
        except TimeoutError:
            self._kill()
            msg = f"no answer within {_PATIENCE_S:g} s"
            raise ImageCheckUnavailableError(msg) from None
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._kill()
        _log.warning("image_broke_a_limit", exit_code=process.returncode, size_bytes=len(content))
        return {"error": TOO_COSTLY}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and (self._process.poll() is not None or self._files >= _MOST_FILES):
            self._kill()
        if self._is_over:
            msg = "the server is stopping"
            raise ImageCheckUnavailableError(msg)
        if self._process is None:
            self._files = 0
            try:
                # A clean environment: what reads strangers' bytes has no key in it.
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "runtime.image_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    start_new_session=True,
                )
            except OSError as error:
                msg = f"no process could be started: {type(error).__name__}"
                raise ImageCheckUnavailableError(msg) from error
        return self._process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(_END_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    # Bytes that the process never read.
                    continue


def _line(descriptor: int) -> bytes:
    """Up to a line break or the end. Raises TimeoutError."""
    line = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(_PATIENCE_S * 1000):
            raise TimeoutError
        part = os.read(descriptor, 65536)
        if not part:
            break
        line += part
    return line
