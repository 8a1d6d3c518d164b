"""A small batch that is alone, written by the event loop itself while the disk is quick: no thread or process has to wake up for it."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from admission.store.port import StaleEpochError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPICursor

    from admission.store.batches import BatchWriter, Rows

# One decision, or two at a time: what comes by more callers is worth a thread.
SMALL_TASKS = 2
SMALL_EVENTS = 4
# The loop stands still for as long as a commit takes. So these many commits before it, whoever wrote them, took so long on average and
# none of them longer than the stall: a disk that hesitated once is left to the thread for as many commits.
JUDGED = 20
MEAN_S = 0.001
STALL_S = 0.005
# Those who open the file in other threads look after the log's length; a batch goes to them each time after so many.
IN_A_ROW = 64


class AtOnce:
    """A connection that belongs to the event loop's thread. It waits for no lock; what it could not store is not stored."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], batches: BatchWriter) -> None:
        """Nothing is opened yet. `connect` makes a connection that neither waits for a lock nor moves the log into the file."""
        self._connect = connect
        self._batches = batches
        self._connection: sqlite3.Connection | None = None
        self._took_s: deque[float] = deque(maxlen=JUDGED)
        self._in_a_row = 0

    def took(self, seconds: float) -> None:
        """A commit took so long, whoever wrote it."""
        self._took_s.append(seconds)

    def may_write(self, rows: Rows) -> bool:
        """Whether the loop may stand still for this batch."""
        took_s = self._took_s
        if len(rows.tasks) > SMALL_TASKS or len(rows.events) > SMALL_EVENTS or rows.deleted or len(took_s) < JUDGED:
            return False
        if self._in_a_row >= IN_A_ROW:
            self._in_a_row = 0
            return False
        return sum(took_s) < MEAN_S * JUDGED and max(took_s) < STALL_S

    def write(self, epoch: int, rows: Rows) -> int | None:
        """Stores the batch; the number of the newest event. None: nothing was stored, for whatever reason: who can wait finds out which."""
        self._in_a_row += 1
        try:
            if self._connection is None:
                self._connection = self._connect()
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            newest = self._batches.write(cast("DBAPICursor", cursor), epoch, rows)
            cursor.execute("COMMIT")
        except (sqlite3.Error, StaleEpochError):
            self.close()
            # Somebody else has the file, or the disk is in trouble: no use in trying at every batch.
            self._took_s.clear()
            return None
        except BaseException:
            self.close()
            raise
        return newest

    def close(self) -> None:
        """Closes the connection, which rolls back what it had begun. May be called twice; another write opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
