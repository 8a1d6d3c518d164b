"""How often something happened within the last minute: exact counts of single events, by kind and subject, bounded in number."""

from __future__ import annotations

import ipaddress
from array import array
from bisect import bisect_right
from collections import OrderedDict
from enum import StrEnum

WINDOW_S = 60.0
"""An event counts for so long; at exactly this age it counts no more."""
MAX_SUBJECTS = 50_000
"""Of each kind: a flood of one kind cannot push out what another one counted."""
MAX_EVENTS = 2_000_000
"""Of each kind, over all its subjects: 16 MiB, at most twice that while old events are still in the arrays."""

_NETWORK_BITS = 64
# Lapsed subjects that one count removes: more than the one that it may add, so that they become fewer.
_SWEPT_AT_ONCE = 2


class RateKind(StrEnum):
    """What is counted; each kind counts by itself."""

    NEW_SESSION = "new_session"
    GENERATION = "generation"
    BAD_KEY = "bad_key"
    BAD_ADMIN_KEY = "bad_admin_key"


BY_ADDRESS = frozenset({RateKind.NEW_SESSION, RateKind.BAD_KEY, RateKind.BAD_ADMIN_KEY})
"""Their subject is an address; that of the others is an id."""


class Rates:
    """Sliding windows in memory. Belongs to one event loop, so that looking and counting are one step.

    A refused event is not counted: who is refused may go on at once when the oldest event is a window old. Of a subject that is not there
    nothing is kept. When there are too many subjects, or events, of a kind, the subject that was asked for least recently is forgotten.
    """

    def __init__(self, *, max_subjects: int = MAX_SUBJECTS, max_events: int = MAX_EVENTS) -> None:
        """Nothing has happened."""
        self._of_kind = {kind: _Counted(max_subjects, max_events) for kind in RateKind}

    def take(self, kind: RateKind, subject: str, per_minute: int, now_s: float) -> float | None:
        """Counts an event now. When so many happened in the window already, counts nothing and returns when one is possible, in seconds.

        Args:
            kind: of the event.
            subject: who does it; an address counts as `subject_of` says.
            per_minute: at most so many within any window; it may differ from call to call.
            now_s: monotonic seconds, which never go back.
        """
        counted, subject = self._of_kind[kind], _subject(kind, subject)
        wait_s = counted.wait_s(subject, per_minute, now_s)
        if wait_s is None:
            counted.add(subject, now_s)
        return wait_s

    def wait_s(self, kind: RateKind, subject: str, per_minute: int, now_s: float) -> float | None:
        """What `take` would return, without counting."""
        return self._of_kind[kind].wait_s(_subject(kind, subject), per_minute, now_s)


def subject_of(address: str) -> str:
    """Whom an address stands for: an IPv6 address for its /64, which one subscriber has whole; one that maps an IPv4 address for that.

    What is no address stands for itself.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = int(parsed) >> _NETWORK_BITS << _NETWORK_BITS
    return f"{ipaddress.IPv6Address(network)}/{_NETWORK_BITS}"


def _subject(kind: RateKind, subject: str) -> str:
    return subject_of(subject) if kind in BY_ADDRESS else subject


class _Counted:
    """Events of one kind, by subject, the subject that was asked for least recently first."""

    def __init__(self, max_subjects: int, max_events: int) -> None:
        self._max_subjects = max_subjects
        self._max_events = max_events
        self._events: OrderedDict[str, _Events] = OrderedDict()
        self._kept = 0

    def wait_s(self, subject: str, per_minute: int, now_s: float) -> float | None:
        events = self._events.get(subject)
        if events is None:
            return None
        self._events.move_to_end(subject)
        self._kept -= events.forget_old(now_s)
        return events.wait_s(per_minute, now_s)

    def add(self, subject: str, now_s: float) -> None:
        self._sweep(now_s)
        events = self._events.setdefault(subject, _Events())
        self._events.move_to_end(subject)
        events.add(now_s)
        self._kept += 1
        while len(self._events) > 1 and (len(self._events) > self._max_subjects or self._kept > self._max_events):
            _, forgotten = self._events.popitem(last=False)
            self._kept -= forgotten.count

    def _sweep(self, now_s: float) -> None:
        """Removes lapsed subjects from the old end."""
        for _ in range(_SWEPT_AT_ONCE):
            subject = next(iter(self._events), None)
            if subject is None or not self._events[subject].is_lapsed(now_s):
                return
            self._kept -= self._events.pop(subject).count


class _Events:
    """Times of one subject's events, rising; those before `first` are forgotten. Refused ones are not in it: never more than its limit."""

    __slots__ = ("_first", "_times")

    def __init__(self) -> None:
        self._times = array("d")
        self._first = 0

    @property
    def count(self) -> int:
        return len(self._times) - self._first

    def add(self, now_s: float) -> None:
        self._times.append(now_s)

    def is_lapsed(self, now_s: float) -> bool:
        return not self.count or _is_over(self._times[-1], now_s)

    def forget_old(self, now_s: float) -> int:
        """Returns how many were forgotten."""
        first = bisect_right(self._times, False, lo=self._first, key=lambda at_s: not _is_over(at_s, now_s))
        forgotten, self._first = first - self._first, first
        # Not at every call: moving what is left costs as much as there is.
        if self._first * 2 > len(self._times):
            del self._times[: self._first]
            self._first = 0
        return forgotten

    def wait_s(self, per_minute: int, now_s: float) -> float | None:
        """Until one more may come; None: now. The old ones are forgotten."""
        too_many = self.count - per_minute
        return None if too_many < 0 else self._times[self._first + too_many] + WINDOW_S - now_s


def _is_over(at_s: float, now_s: float) -> bool:
    return at_s + WINDOW_S <= now_s
