"""The stream of an image task's changes, polled from a status that a test scripts; time passes by a fake sleep."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest

from http_bridge.convert import Links
from http_bridge.errors import HttpError
from http_bridge.schemas import StatusReply
from http_bridge.upstream.convert import status_reply
from http_bridge.upstream.watch import watch


def _status(status: str, progress: int = 0) -> StatusReply:
    body: dict[str, object] = {"status": status, "progress": progress, "created_at": "2026-01-01T12:00:00Z"}
    found = status_reply(body, "image-a1", Links())
    assert found is not None
    return found


class _Script:
    """Gives the statuses and errors in order."""

    def __init__(self, *answers: StatusReply | HttpError) -> None:
        self.answers = list(answers)
        self.slept: list[float] = []

    async def status(self) -> StatusReply:
        answer = self.answers.pop(0)
        if isinstance(answer, HttpError):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def changes(self) -> list[tuple[Any, ...]]:
        async with aclosing(watch(self.status, sleep=self.sleep)) as stream:
            return [(one.status, one.progress) async for one in stream]


AWAY = HttpError("service_unavailable", "Away.")


async def test_every_change_is_told_once_and_the_end_is_the_last() -> None:
    waiting, half, done = _status("pending"), _status("processing", 50), _status("done", 100)
    script = _Script(waiting, waiting, half, half, half, done)
    assert await script.changes() == [("pending", 0), ("processing", 50), ("done", 100)]
    # Slower while nothing moves, as at first when something did.
    assert script.slept == [3.0, 3.75, 3.0, 3.75, 4.6875]


async def test_task_is_told_and_never_asked_for_again_when_it_has_ended() -> None:
    script = _Script(_status("failed"))
    assert await script.changes() == [("failed", 0)]
    assert script.slept == []


async def test_upstream_is_waited_for_ever_more_slowly_when_it_goes_away_meanwhile() -> None:
    script = _Script(_status("processing"), *[AWAY] * 6, _status("done", 100))
    assert await script.changes() == [("processing", 0), ("done", 100)]
    assert script.slept == [3.0, 6.0, 12.0, 24.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize("answers", [(AWAY,), (_status("processing"), HttpError("task_not_found", "Gone."))])
async def test_error_is_told_when_it_is_the_first_answer_or_the_task_is_gone(answers: tuple[StatusReply | HttpError, ...]) -> None:
    with pytest.raises(HttpError) as caught:
        await _Script(*answers).changes()
    last = answers[-1]
    assert isinstance(last, HttpError)
    assert caught.value.code == last.code
