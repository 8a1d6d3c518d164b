"""What is sent, in which batches, and what is dropped when nobody takes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from runtime.traces.outbox import Answer, Outbox, OutboxLimits, Sent
from runtime.traces.tracer import Span
from tests.unit.traces.spans import make_span

QUICK = OutboxLimits(spans=8, batch=4, delay_s=0.005, send_s=1.0, pauses_s=(0.001, 0.001))
PATIENCE_S = 10.0


class Post:
    """Answers in turn; the last answer stays. `gate`: a send waits while it is shut."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers) or [Answer.TAKEN]
        self.taken: list[str] = []
        self.tries: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.within_s: list[float] = []

    def send(self, spans: Sequence[Span], within_s: float) -> Sent:
        self.entered.set()
        self.gate.wait(PATIENCE_S)
        self.within_s.append(within_s)
        self.tries.append(len(spans))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is Answer.TAKEN:
            self.taken += [span.name for span in spans]
        return Sent(answer=answer, reason="" if answer is Answer.TAKEN else "a reason")


@contextmanager
def _outbox(post: Post, limits: OutboxLimits = QUICK) -> Iterator[Outbox]:
    outbox = Outbox(post.send, limits)
    try:
        yield outbox
    finally:
        post.gate.set()
        assert outbox.close(PATIENCE_S)


def _names(numbers: Sequence[int]) -> list[str]:
    return [f"span {number}" for number in numbers]


def test_everything_is_sent_once_and_in_order_when_it_is_closed() -> None:
    post = Post()
    with _outbox(post, OutboxLimits(spans=100, batch=4, delay_s=PATIENCE_S)) as outbox:
        for number in range(10):
            outbox.put(make_span(number))
    assert post.taken == _names(range(10))
    assert max(post.tries) == 4
    assert outbox.dropped == 0


def test_a_few_are_sent_soon_when_no_more_come() -> None:
    post = Post()
    with _outbox(post) as outbox:
        outbox.put(make_span())
        assert post.entered.wait(PATIENCE_S)


def test_the_oldest_give_way_when_nobody_takes_them() -> None:
    post = Post()
    post.gate.clear()
    with _outbox(post) as outbox:
        outbox.put(make_span(0))
        assert post.entered.wait(PATIENCE_S)
        # One is on its way; of a hundred more eight are kept.
        for number in range(1, 101):
            outbox.put(make_span(number))
        assert outbox.dropped == 92
    assert post.taken == _names([0, *range(93, 101)])


def test_a_batch_is_sent_again_when_it_may_be_taken_later() -> None:
    post = Post(Answer.LATER, Answer.LATER, Answer.TAKEN)
    with _outbox(post) as outbox:
        outbox.put(make_span())
        while not post.taken:
            assert post.entered.wait(PATIENCE_S)
    assert post.tries == [1, 1, 1]
    assert outbox.dropped == 0


@pytest.mark.parametrize(("answer", "tries"), [(Answer.NEVER, 1), (Answer.LATER, 3)])
def test_a_batch_is_dropped_and_the_next_is_sent_when_it_is_not_taken(answer: Answer, tries: int) -> None:
    post = Post(*[answer] * tries, Answer.TAKEN)
    with _outbox(post) as outbox:
        outbox.put(make_span(1))
        while outbox.dropped == 0:
            assert post.entered.wait(PATIENCE_S)
        outbox.put(make_span(2))
    assert post.tries == [1] * (tries + 1)
    assert (post.taken, outbox.dropped) == (_names([2]), 1)


def test_the_log_is_told_once_that_they_are_not_taken_and_once_that_they_are_again() -> None:
    post = Post(Answer.NEVER, Answer.NEVER, Answer.NEVER, Answer.TAKEN)
    with capture_logs() as lines, _outbox(post, OutboxLimits(batch=1, delay_s=0.001)) as outbox:
        for number in range(4):
            outbox.put(make_span(number))
    assert [line["event"] for line in lines] == ["traces_not_taken", "traces_taken_again", "spans_dropped"]
    assert lines[0]["reason"] == "a reason"
    assert (lines[1]["spans_dropped"], lines[2]["spans"]) == (3, 3)


def test_closing_waits_no_longer_than_it_is_given_when_a_send_hangs() -> None:
    post = Post()
    post.gate.clear()
    outbox = Outbox(post.send, QUICK)
    outbox.put(make_span(1))
    assert post.entered.wait(PATIENCE_S)
    outbox.put(make_span(2))
    assert not outbox.close(0.01)
    post.gate.set()
    assert outbox.close(PATIENCE_S)
    # The time was over before the second could be tried.
    assert post.taken == _names([1])


def test_a_last_try_gets_only_the_time_that_is_left_when_it_is_closed() -> None:
    post = Post(Answer.LATER)
    outbox = Outbox(post.send, OutboxLimits(spans=8, batch=4, delay_s=PATIENCE_S, send_s=60.0, pauses_s=(60.0,)))
    outbox.put(make_span())
    assert outbox.close(5.0)
    assert post.tries == [1]
    assert post.within_s[0] <= 5.0
    assert outbox.dropped == 1
