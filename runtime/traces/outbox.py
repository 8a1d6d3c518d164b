"""What a process has not sent yet of its spans: bounded, sent in batches by a thread, dropped when nobody takes it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog

from runtime.traces.tracer import Span

_log = structlog.get_logger()


class Answer(StrEnum):
    """What became of a batch."""

    TAKEN = "taken"
    LATER = "later"
    """Nobody took it now; the same batch may be taken soon."""
    NEVER = "never"
    """It is not taken, however often it is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The answer, and for the log why it was not taken: never what was sent, nor what it was sent with."""

    answer: Answer
    reason: str = ""


Send = Callable[[Sequence[Span], float], Sent]
"""Sends a batch; the second argument is how long it may take, in seconds. Blocks; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxLimits:
    """How much is kept, and for how long.

    Attributes:
        spans: kept at most; the oldest give way. A span is about half a KiB.
        batch: spans of one message; so many are sent at once.
        delay_s: fewer are sent after so long.
        send_s: for one message.
        pauses_s: before each further try of a batch; after the last it is dropped.
    """

    spans: int = 4096
    batch: int = 512
    delay_s: float = 1.0
    send_s: float = 5.0
    pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0)


class Outbox:
    """Any thread puts spans in. Whoever made it closes it."""

    def __init__(self, send: Send, limits: OutboxLimits | None = None) -> None:
        """Starts the thread that sends; `send` is called by it only."""
        self._send = send
        self._limits = limits or OutboxLimits()
        self._spans: deque[Span] = deque(maxlen=self._limits.spans)
        self._overflown = 0
        self._given_up = 0
        self._is_refused = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._ends_s = float("inf")
        # A daemon: a process that must end is not held up by a collector.
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that were never sent, so far."""
        return self._overflown + self._given_up

    def put(self, span: Span) -> None:
        """Takes a span in; one too many pushes the oldest out. After `close` it is dropped."""
        spans = self._spans
        if len(spans) == self._limits.spans:
            self._overflown += 1
        spans.append(span)
        if len(spans) >= self._limits.batch and not self._wake.is_set():
            self._wake.set()

    def close(self, within_s: float) -> bool:
        """Sends what is there if that can be done in the time, and ends the thread; never waits longer. May be called twice.

        True: the thread has ended. False: it is in the middle of `send`, and ends after that.
        """
        if not self._closing.is_set():
            self._ends_s = time.monotonic() + within_s
            self._closing.set()
            self._wake.set()
        self._thread.join(within_s)
        if self._spans or self.dropped:
            _log.warning("spans_dropped", spans=self.dropped + len(self._spans))
            self._spans.clear()
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._limits.delay_s)
            self._wake.clear()
            self._deliver_all()
        # What came between the last look and the close.
        self._deliver_all()

    def _deliver_all(self) -> None:
        while batch := self._next_batch():
            self._deliver(batch)

    def _next_batch(self) -> list[Span]:
        batch: list[Span] = []
        if time.monotonic() < self._ends_s:
            take, add = self._spans.popleft, batch.append
            # By an exception rather than a look before each: an overflow may take the last one meanwhile anyway.
            with contextlib.suppress(IndexError):
                for _ in range(self._limits.batch):
                    add(take())
        return batch

    def _deliver(self, batch: list[Span]) -> None:
        sent = self._try(batch)
        for pause_s in self._limits.pauses_s:
            if sent.answer is not Answer.LATER or self._closing.wait(pause_s):
                break
            sent = self._try(batch)
        if sent.answer is not Answer.TAKEN:
            self._given_up += len(batch)

    def _try(self, batch: list[Span]) -> Sent:
        left_s = min(self._limits.send_s, self._ends_s - time.monotonic())
        if left_s <= 0:
            return Sent(answer=Answer.NEVER, reason="the process ends")
        sent = self._send(batch, left_s)
        is_refused = sent.answer is not Answer.TAKEN
        # Once: a collector that is away for a day is no news every second.
        if is_refused and not self._is_refused:
            _log.warning("traces_not_taken", reason=sent.reason)
        elif self._is_refused and not is_refused:
            _log.info("traces_taken_again", spans_dropped=self.dropped)
        self._is_refused = is_refused
        return sent
