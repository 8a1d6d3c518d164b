"""The audit log of refused admin calls: every one is in it, yet a flood of them writes a few rows a second at most.

A refused call is one of a series: those of one address (an IPv6 address counts as its /64), action and verdict that follow each other
within a minute. The first call of a series is on disk before it is answered; those that follow are counted, and their number is written
into the same entry some seconds later. So a crash loses at most the last seconds of such a number, never an entry, and nothing of a call
that was let in: those are written by `admission.access`, each before its answer.

What a flood costs: one transaction each PAUSE_S at most, of at most MAX_SERIES and some 100 rows, whatever comes from however many
addresses; when so many series are under way, calls from further addresses are written as those of "other addresses". Acceptances share the
store's writer, which takes turns, and of these transactions one at a time is handed in: so an acceptance waits for one small commit more at
the worst, and for none most of the time. Callers of new series wait for the next transaction, which slows a guesser down and nobody else.
"""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from admission.rates import subject_of
from admission.store.access_port import AuditEntry
from admission.store.port import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from admission.access_observer import AccessObserver
    from admission.access_types import AdminCall, Verdict
    from admission.store.access_port import AccessStore
    from runtime.clock import Clock, Reading

MAX_SERIES = 100
"""Series of addresses of their own that are under way at a time."""
FOLLOWS_S = 60.0
"""A call that comes so long after the one before it begins a new series."""
SERIES_LIFE_S = 3600.0
"""After so long a series ends though calls go on coming: a long attack leaves an entry for each hour."""
COUNTS_S = 5.0
"""The number of a series is written at most this often."""
PAUSE_S = 0.25
"""Between two transactions."""

OTHER_ADDRESSES = "other addresses"
OTHER_ACTIONS = "other_actions"
_MAX_OTHERS = 100
_CLOSING_S = 10.0
_CLOSED = "the audit log is closed"

_log = structlog.get_logger()

_Key = tuple[str, str, "Verdict"]


@dataclass(slots=True, eq=False)
class _Series:
    """Calls that are written as one entry. `written` of `count` calls are on disk; at first none is, and `stored` is not set."""

    called_at: datetime
    address: str
    action: str
    details: str
    first_s: float
    last_s: float
    written_s: float
    count: int = 0
    written: int = 0
    entry_id: int = 0
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None

    def text(self) -> str:
        """The details of the entry as they are now."""
        return self.details if self.count == 1 else f"{self.details} ({self.count} times)"

    def entry(self) -> AuditEntry:
        """The entry as it is now."""
        return AuditEntry(
            called_at=self.called_at, address=self.address, action=self.action, details=self.text(), success=False, entry_id=self.entry_id
        )

    def is_over(self, now_s: float) -> bool:
        """Nothing is to be written and the next call begins another one."""
        return self.written == self.count and (now_s - self.last_s >= FOLLOWS_S or now_s - self.first_s >= SERIES_LIFE_S)


class AuditLog:
    """Writes entries of refused calls. Belongs to one event loop; its task runs while a series does, and ends with `close`."""

    def __init__(self, store: AccessStore, clock: Clock, observer: AccessObserver, *, max_series: int = MAX_SERIES) -> None:
        """Nothing is under way."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._max_series = max_series
        self._series: dict[_Key, _Series] = {}
        self._has_new = asyncio.Event()
        self._closing = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None

    async def refused(self, call: AdminCall, verdict: Verdict, reason: str, now: Reading) -> None:
        """Returns when the call is in the log, or counted in a series that is. Raises StoreUnavailableError when it cannot be."""
        if self._closing.is_set():
            raise StoreUnavailableError(_CLOSED)
        series = self._series_of(call, verdict, reason, now)
        series.count += 1
        series.last_s = now.monotonic_s
        if series.stored.is_set() and series.failure is None:
            return
        self._has_new.set()
        if self._writing is None or self._writing.done():
            # In a context of its own: what it says belongs to no call, whichever call began it.
            self._writing = asyncio.create_task(self._keep_writing(), name="audit-log", context=contextvars.Context())
        await series.stored.wait()
        if series.failure is not None:
            raise series.failure

    def current(self, entries: Sequence[AuditEntry]) -> tuple[AuditEntry, ...]:
        """The entries with the numbers as they are now, which may not be on disk yet."""
        running = {series.entry_id: series for series in self._series.values() if series.entry_id}
        return tuple(running[entry.entry_id].entry() if entry.entry_id in running else entry for entry in entries)

    async def flush(self) -> None:
        """Writes what is due now; everything when it closes. A failure is told to those who wait for an entry; numbers are tried again."""
        async with self._flushing:
            await self._flush()

    async def close(self) -> None:
        """Writes what is left, if the store can take it, and ends the task. May be called twice."""
        self._closing.set()
        self._has_new.set()
        if self._writing is not None:
            _, late = await asyncio.wait({self._writing}, timeout=_CLOSING_S)
            for task in late:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._end([series for series in self._series.values() if not series.stored.is_set()], StoreUnavailableError(_CLOSED))

    async def _flush(self) -> None:
        now_s = self._clock.now().monotonic_s
        self._has_new.clear()
        self._series = {key: series for key, series in self._series.items() if not series.is_over(now_s)}
        new = [series for series in self._series.values() if not series.entry_id]
        counted = [series for series in self._series.values() if series.entry_id and self._is_due(series, now_s)]
        if not new and not counted:
            return
        counts = [series.count for series in (*new, *counted)]
        try:
            ids = await self._store.write_audit([one.entry() for one in new], {one.entry_id: one.text() for one in counted})
        except Exception as error:
            self._not_written(new, error)
            return
        for series, entry_id in zip(new, ids, strict=True):
            series.entry_id = entry_id
            series.stored.set()
        for series, count in zip((*new, *counted), counts, strict=True):
            series.written, series.written_s = count, now_s

    def _series_of(self, call: AdminCall, verdict: Verdict, reason: str, now: Reading) -> _Series:
        key, address, action = (subject_of(call.address), call.action, verdict), call.address, call.action
        if key not in self._series and len(self._series) >= self._max_series:
            key, address = (OTHER_ADDRESSES, call.action, verdict), OTHER_ADDRESSES
            if key not in self._series and len(self._series) >= self._max_series + _MAX_OTHERS:
                key, action = (OTHER_ADDRESSES, OTHER_ACTIONS, verdict), OTHER_ACTIONS
        series = self._series.get(key)
        if series is None or series.is_over(now.monotonic_s):
            # What others asked for is not all alike: only the reason is.
            details = f"{call.details}: {reason}" if call.details and address != OTHER_ADDRESSES else reason
            now_s = now.monotonic_s
            series = _Series(now.utc, address, action, details, first_s=now_s, last_s=now_s, written_s=now_s)
            self._series[key] = series
        return series

    def _is_due(self, series: _Series, now_s: float) -> bool:
        return series.written < series.count and (self._closing.is_set() or now_s - series.written_s >= COUNTS_S)

    def _not_written(self, new: Sequence[_Series], error: Exception) -> None:
        """Who waits is told; their series end, so that the next call tries again."""
        self._observer.audit_not_written()
        if isinstance(error, StoreUnavailableError):
            _log.warning("audit_not_written", error=str(error))
        else:
            _log.error("audit_not_written", exc_info=error)
        self._end(new, error)

    def _end(self, failed: Sequence[_Series], error: Exception) -> None:
        self._series = {key: series for key, series in self._series.items() if series not in failed}
        for series in failed:
            series.failure = error
            series.stored.set()

    async def _keep_writing(self) -> None:
        while True:
            is_last = self._closing.is_set()
            await self.flush()
            if is_last or not self._series:
                return
            await _happens(self._closing, PAUSE_S)
            await _happens(self._has_new, COUNTS_S - PAUSE_S)


async def _happens(event: asyncio.Event, within_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
