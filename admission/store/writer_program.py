"""`python -m admission.store.writer_program URL BUSY_TIMEOUT_S FD`: writes batches that admission hands over, one transaction each.

The other end of it is `WriterProcess`. Frames go both ways over the socket FD: four bytes of length, then a value in Python's marshal form,
of plain values only; both ends are one program of one release. A frame (epoch, in_doubt, rows) is answered with (kind, number or text).
"""

from __future__ import annotations

import marshal
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

from sqlalchemy import Connection, make_url

from admission.store.batches import BatchWriter, Rows
from admission.store.database import ConflictError, Line, driver_cursor
from admission.store.port import StaleEpochError, StoreUnavailableError
from admission.store.sqlite import SqliteBackend

LENGTH_BYTES = 4

STORED, STALE, CONFLICT, UNAVAILABLE, BUG = "stored", "stale", "conflict", "unavailable", "bug"
"""Kinds of answers: with the number of the newest event, or with a text."""

Answer = tuple[str, int | str]


def frame(value: object) -> bytes:
    """A value as it travels. Raises ValueError when it is not made of plain values."""
    body = marshal.dumps(cast("Any", value))
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Writer:
    """A connection and the statements of a batch."""

    def __init__(self, backend: SqliteBackend) -> None:
        """Connects at the first batch."""
        self._batches = BatchWriter(backend)
        self._line = Line(backend, backend.engine(read_only=False))

    def answer(self, epoch: int, in_doubt: int | None, values: tuple[Any, ...]) -> Answer:
        """Stores the rows, or says why nothing was stored."""
        rows = Rows(*values)

        def work(connection: Connection) -> int:
            return self._batches.write(driver_cursor(connection), epoch, rows, in_doubt=in_doubt)

        try:
            return STORED, self._line.transact(work)
        except StaleEpochError as error:
            return STALE, str(error)
        except ConflictError as error:
            return CONFLICT, str(error)
        except StoreUnavailableError as error:
            return UNAVAILABLE, str(error)
        except Exception as error:
            # Without the statement's values: there are prompts in it.
            return BUG, type(error).__name__

    def close(self) -> None:
        """Hangs up."""
        self._line.hang_up()


def main(arguments: list[str]) -> int:
    """Serves until admission closes its end, or is gone."""
    url, busy_timeout_s, descriptor = arguments
    # Admission ends this process; a Ctrl-C at the terminal reaches both, and what was handed over must still be written.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    writer = Writer(SqliteBackend(make_url(url), busy_timeout_s=float(busy_timeout_s)))
    with socket.socket(fileno=int(descriptor)) as link, closing(writer):
        try:
            link.sendall(frame(True))
            for epoch, in_doubt, rows in _frames(link):
                link.sendall(frame(writer.answer(epoch, in_doubt, rows)))
        except OSError:
            # Admission is gone.
            return 0
    return 0


def _frames(link: socket.socket) -> Iterator[Any]:
    """What comes, until the other end is closed."""
    with link.makefile("rb") as incoming:
        while len(head := incoming.read(LENGTH_BYTES)) == LENGTH_BYTES:
            length = int.from_bytes(head, "big")
            body = incoming.read(length)
            if len(body) < length:
                return
            yield marshal.loads(body)  # noqa: S302 - admission itself wrote it, over a socket that nobody else has


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
