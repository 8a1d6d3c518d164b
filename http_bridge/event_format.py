"""What an event stream says, as bytes: states, the end, and heartbeats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.sse import format_sse_event

from http_bridge.convert import diagnostics, status_reply
from http_bridge.schemas import StreamEnd

if TYPE_CHECKING:
    from http_bridge.convert import Links
    from http_bridge.event_feed import Update
    from http_bridge.schemas import EndReason, StatusReply

END_SUFFIX = "-end"
"""What the id of the last event ends with: a client that comes back with it has seen the end."""

HEARTBEAT = format_sse_event(comment="still there")

RETRY_MS = 3000
"""How long a client waits before it connects again; a restarted server serves within this time."""


class Script:
    """The events of one stream, in their order."""

    def __init__(self, task_id: str, links: Links, after_sequence: int) -> None:
        """Of this task; the reader knows what was recorded up to this sequence."""
        self._task_id = task_id
        self._links = links
        self._after = after_sequence
        self._weights: str | None = None
        self._told: StatusReply | None = None
        self._last_sequence = after_sequence

    def state(self, update: Update) -> bytes:
        """The event `status`; empty when it would say nothing new."""
        update.task.events.extend(update.events)
        reply = status_reply(update.task, self._links)
        # Told by an event, and true of the task from then on.
        self._weights = reply.text_to_video_weights or self._weights
        new = [event for event in update.events if event.sequence > self._after]
        state = reply.model_copy(update={"text_to_video_weights": self._weights, "diagnostics": None})
        told, self._told = self._told, state
        self._last_sequence = max(self._last_sequence, update.last_sequence)
        if state == told and not new:
            return b""
        shown = state.model_copy(update={"diagnostics": diagnostics(new)}).model_dump_json()
        return format_sse_event(event="status", data_str=shown, id=str(self._last_sequence), retry=RETRY_MS if told is None else None)

    def end(self, reason: EndReason) -> bytes:
        """The event `end`, after which nothing comes."""
        data = StreamEnd(task_id=self._task_id, reason=reason).model_dump_json()
        return format_sse_event(event="end", data_str=data, id=f"{self._last_sequence}{END_SUFFIX}")
