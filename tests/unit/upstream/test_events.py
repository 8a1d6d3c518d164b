"""What an event stream of an image task says of the changes that it is given."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from http_bridge.convert import Links
from http_bridge.errors import HttpError
from http_bridge.event_stream import EventStreams
from http_bridge.schemas import StatusReply
from http_bridge.upstream.convert import status_reply
from http_bridge.upstream.events import ImageEventsReply

BEGAN = "2026-01-01T12:00:00Z"


def _status(status: str, *recorded: str, progress: int = 0) -> StatusReply:
    events = [{"event_type": name, "value": "", "reason": "", "created_at": BEGAN} for name in recorded]
    body: dict[str, object] = {"status": status, "progress": progress, "created_at": BEGAN, "diagnostics": {"events": events}}
    found = status_reply(body, "image-a1", Links())
    assert found is not None
    return found


async def _sent(*changes: StatusReply | HttpError, after_sequence: int = 0, told: asyncio.Event | None = None) -> list[str]:
    """The events, each taken before the next change comes."""
    taken = asyncio.Event()
    chunks: list[str] = []

    async def stream() -> AsyncGenerator[StatusReply, None]:
        for change in changes:
            if isinstance(change, HttpError):
                raise change
            taken.clear()
            yield change
            await taken.wait()

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        if message.get("body"):
            chunks.append(bytes(message["body"]).decode())
        taken.set()

    streams = EventStreams(most=1, most_of_session=1)
    reply = ImageEventsReply(streams, stream(), task_id="image-a1", owner="key", after_sequence=after_sequence)
    async with asyncio.timeout(5):
        await reply({"type": "http"}, receive, send)
    assert len(streams) == 0
    return chunks


async def test_changes_are_numbered_on_from_what_the_reader_saw_and_the_end_is_last() -> None:
    sent = await _sent(
        _status("pending"), _status("processing", "started", progress=5), _status("done", "started", "ended"), after_sequence=7
    )
    assert [re.findall(r"^(?:event|id): (.*)$", chunk, re.MULTILINE) for chunk in sent] == [
        ["status", "8"],
        ["status", "9"],
        ["status", "10"],
        ["end", "10-end"],
    ]
    assert ["retry: 3000" in chunk for chunk in sent] == [True, False, False, False]
    # Only what is new of what was recorded.
    assert '"started"' in sent[1]
    assert '"ended"' in sent[2]
    assert '"started"' not in sent[2]
    assert '"reason":"done"' in sent[3]


async def test_end_says_deleted_when_the_task_went_meanwhile() -> None:
    sent = await _sent(_status("processing"), HttpError("task_not_found", "Gone."))
    assert '"reason":"deleted"' in sent[-1]


async def test_stream_ends_without_an_end_when_the_upstream_cannot_be_asked_any_more() -> None:
    sent = await _sent(_status("processing"), HttpError("bad_request", "No."))
    assert len(sent) == 1


async def test_nothing_is_sent_and_the_error_is_raised_when_the_first_look_fails() -> None:
    with pytest.raises(HttpError) as caught:
        await _sent(HttpError("service_unavailable", "Away."))
    assert caught.value.code == "service_unavailable"
