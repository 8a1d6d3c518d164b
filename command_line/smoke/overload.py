"""The check of `queue_overloaded`: asks for more clips at once than the queues take, counts the answers, and takes everything away again.

A queue of a model takes 25 tasks and the waiting room of the degraded pool 25 requests; workers take some more. Whoever asks beyond that is
told to come again, and so is every other user for the seconds that this takes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from command_line.smoke.deployment import Reply
from command_line.smoke.outcome import CheckFailedError, CheckSkippedError
from command_line.smoke.visit import Visit, small_clip
from runtime.rules.catalogue import MODELS

QUEUE_DEPTH = 25
"""Tasks of a model's queue, and requests that are held for the degraded pool (design: routing 3 and 4)."""

_MAX_WAIT_S = 30
# Both queues, some workers, and some that are done meanwhile.
BURST = 2 * QUEUE_DEPTH + 14
_BURSTS = 3
# Accepted and not begun: the queue, and what was accepted while the queue was looked at.
_MOST_PENDING = QUEUE_DEPTH + 10
_CODE = "queue_overloaded"
_ADVICE = "Compare admission's version: its queues must close at 25."
_MODEL = next(iter(MODELS))


def announcement() -> str:
    """What the check is going to do, for people to read before."""
    return (
        f"--overload: sends {BURST} small clips at once, up to {_BURSTS} times, until the deployment says {_CODE}; cancels them all. "
        "Other users are told to come again meanwhile."
    )


@dataclass(slots=True)
class _Answers:
    """What was answered so far.

    Attributes:
        codes: how often each, `accepted` among them.
        overload: the first reply that says so.
        limited: a reply that says that this caller asks too often.
    """

    codes: Counter[str] = field(default_factory=Counter)
    overload: Reply | None = None
    limited: Reply | None = None
    unexpected: Reply | None = None
    failure: CheckFailedError | None = None

    @property
    def is_decided(self) -> bool:
        return any((self.overload, self.limited, self.unexpected, self.failure))

    def add(self, reply: Reply) -> None:
        if reply.status == 202:
            self.codes["accepted"] += 1
            return
        code = _code_of(reply)
        self.codes[code] += 1
        if code == _CODE:
            self.overload = self.overload or reply
        elif code == "rate_limited":
            self.limited = self.limited or reply
        else:
            self.unexpected = self.unexpected or reply


async def overload(visit: Visit) -> str:
    """More than the queues take is refused with 503, its facts and Retry-After."""
    before, answers = set(visit.made), _Answers()
    try:
        for number in range(_BURSTS):
            await _burst(visit, answers, number)
            if answers.is_decided:
                break
            await _queue_is_closed(visit, [task_id for task_id in visit.made if task_id not in before])
    finally:
        await visit.take_away([task_id for task_id in visit.made if task_id not in before])
    told = ", ".join(f"{count} {code}" for code, count in answers.codes.most_common())
    if answers.failure is not None:
        raise answers.failure
    if answers.overload is not None:
        return f"{_checked(answers.overload)} ({told})"
    if answers.unexpected is not None:
        raise CheckFailedError(f"the load was answered with {answers.unexpected.status} {_code_of(answers.unexpected)} ({told})", _ADVICE)
    if answers.limited is not None:
        msg = f"the session may not ask so often ({told}): give the API key, which has no limit"
        raise CheckSkippedError(msg)
    msg = f"the deployment renders faster than clips can be sent from here ({told}): its queues cannot be filled"
    raise CheckSkippedError(msg)


async def _burst(visit: Visit, answers: _Answers, number: int) -> None:
    """Sends one burst; ends with the first answer that decides, and hangs up on what is held."""
    visit.tell(f"overload: burst {number + 1} of {BURST} requests")
    # Hanging up gives a held place back; what was accepted meanwhile says so at once.
    calls = {asyncio.create_task(visit.submit(small_clip(_MODEL, seed=seed), grace_s=1.0)) for seed in range(BURST)}
    pending = calls
    try:
        while pending and not answers.is_decided:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for call in done:
                try:
                    answers.add(call.result())
                except CheckFailedError as error:
                    answers.failure = answers.failure or error
    finally:
        for call in pending:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _queue_is_closed(visit: Visit, task_ids: list[str]) -> None:
    """Raises CheckFailedError when more tasks wait than a queue may hold: then it does not close."""
    replies = await asyncio.gather(*(visit.call("GET", f"/status/{task_id}") for task_id in task_ids))
    waiting = sum(reply.status == 200 and reply.document().get("status") == "pending" for reply in replies)
    if waiting > _MOST_PENDING:
        raise CheckFailedError(f"{waiting} accepted tasks of {_MODEL} wait, and no request is refused with {_CODE}", _ADVICE)


def _checked(reply: Reply) -> str:
    """The refusal in words. Raises CheckFailedError when its facts are not those of the contract."""
    metadata = reply.refusal(503, _CODE, _ADVICE).get("metadata")
    facts = metadata if isinstance(metadata, dict) else {}
    numbers = {name: facts.get(name) for name in ("depth", "max_depth", "waited_seconds", "max_wait_seconds")}
    wrong = [name for name, value in numbers.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    if facts.get("cause") not in ("depth", "wait"):
        wrong.append("cause")
    if wrong:
        raise CheckFailedError(f"{_CODE} lacks {', '.join(wrong)} in its metadata", _ADVICE)
    if (numbers["max_depth"], numbers["max_wait_seconds"]) != (QUEUE_DEPTH, _MAX_WAIT_S):
        told = f"max_depth {numbers['max_depth']}, max_wait_seconds {numbers['max_wait_seconds']}"
        raise CheckFailedError(f"{_CODE} tells other limits than 25 and 30 s: {told}", _ADVICE)
    retry_after = reply.headers.get("retry-after", "")
    if not retry_after.isdecimal() or int(retry_after) < 1:
        raise CheckFailedError(f"{_CODE} has no Retry-After in seconds", "Look whether a proxy takes it away.")
    return f"503 by {facts['cause']} at depth {numbers['depth']}, Retry-After {retry_after} s"


def _code_of(reply: Reply) -> str:
    try:
        return str(reply.document()["detail"]["code"])
    except (CheckFailedError, KeyError, TypeError):
        return f"HTTP {reply.status}"
