"""Puts the consoles together: their places, and the one look that serves them all."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from http_bridge.console.overview import SHOWN_TASKS, Overview, console_snapshot
from http_bridge.console.stream import MOST_CONSOLES, Consoles
from http_bridge.event_stream import EventStreams
from http_bridge.schemas_console import ConsoleAway, ConsoleEvents, ConsoleSnapshot

if TYPE_CHECKING:
    from http_bridge.client import AdmissionClient

_TOLD = (ConsoleSnapshot, ConsoleEvents, ConsoleAway)


def consoles(client: AdmissionClient) -> Consoles:
    """Those of this bridge. Their places are their own: in an overload, when users have all of theirs, operators must see it."""
    streams = EventStreams(most=MOST_CONSOLES, most_of_session=MOST_CONSOLES)
    return Consoles(streams, Overview(partial(_look, client), streams.clock))


async def _look(client: AdmissionClient) -> ConsoleSnapshot:
    return console_snapshot(await client.operator.snapshot(), await client.recent_tasks(SHOWN_TASKS))


def console_schemas() -> dict[str, Any]:
    """What the events of the stream hold, by name, for the documentation: FastAPI knows bodies only."""
    _, found = models_json_schema([(model, "serialization") for model in _TOLD], ref_template="#/components/schemas/{model}")
    schemas: dict[str, Any] = found["$defs"]
    return schemas
