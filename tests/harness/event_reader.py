"""Reads server-sent events as a browser does, and a bridge on the real services of admission."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from obstore.store import LocalStore

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.server import http_server
from tests.harness.bridge import QUICK, WITH_KEY, bridge_settings
from tests.harness.http import NO_AUTHORITIES

if TYPE_CHECKING:
    from fastapi import FastAPI

    from http_bridge.server import HttpServer

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One event; `comment` is set instead for a comment."""

    event: str = ""
    data: dict[str, Any] | None = None
    id: str = ""
    retry: str = ""
    comment: str = ""

    def __getitem__(self, name: str) -> Any:
        """A member of the data."""
        assert self.data is not None
        return self.data[name]

    @property
    def recorded(self) -> list[str]:
        """The types of the recorded events that came with it."""
        return [event["event_type"] for event in (self["diagnostics"] or {"events": []})["events"]]


class EventReader:
    """One open stream."""

    def __init__(self, reply: httpx.Response) -> None:
        """Of this reply."""
        self.reply = reply
        self._lines = reply.aiter_lines()

    async def next(self) -> Received | None:
        """The next event or comment; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                if not line:
                    if "comment" in fields:
                        return Received(comment=fields["comment"])
                    return Received(**{**fields, "data": json.loads(fields["data"])})
                name, _, value = line.partition(": ")
                fields[name.rstrip(":") or "comment"] = value
        assert fields == {}, "the stream ended within an event"
        return None

    async def state(self) -> Received:
        """The next event `status`."""
        received = await self.next()
        assert received is not None
        assert received.event == "status", received
        return received

    async def until(self, **members: object) -> Received:
        """The first event `status` whose data has these members."""
        while True:
            received = await self.state()
            if all(received[name] == value for name, value in members.items()):
                return received

    async def rest(self) -> list[Received]:
        """Everything up to the end."""
        received = []
        while (one := await self.next()) is not None:
            received.append(one)
        return received


@dataclass(frozen=True, kw_only=True)
class ServedBridge:
    """A bridge behind a real HTTP server; `http` sends the key."""

    app: FastAPI
    http: httpx.AsyncClient
    server: HttpServer
    serving: asyncio.Task[None]

    def stop(self) -> None:
        """What the process does on SIGTERM; `serving` ends when the last reply has."""
        self.app.state.bridge.stopping.set()
        self.server.should_exit = True

    @asynccontextmanager
    async def events(self, task_id: str, last_event_id: str | None = None, *, prefix: str = "") -> AsyncIterator[EventReader]:
        """An open stream of a task."""
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        async with self.http.stream("GET", f"{prefix}/events/{task_id}", headers=headers) as reply:
            assert reply.status_code == 200, await reply.aread()
            yield EventReader(reply)


@asynccontextmanager
async def bridge_on(admission_port: int, folder: Path, **settings: Any) -> AsyncIterator[ServedBridge]:
    """A bridge of this admission, with its files in the folder `objects`."""
    address = f"127.0.0.1:{admission_port}"
    made = bridge_settings(address, http_bind="127.0.0.1:0", **settings)
    app = create_app(made, AdmissionClient(address, patience=QUICK), LocalStore(folder / "objects", mkdir=True))
    server = http_server(app, made)
    serving = asyncio.create_task(server.serve(), name="http-server")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await server.listening.wait()
        base = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=base, timeout=20, headers=WITH_KEY) as http:
            yield ServedBridge(app=app, http=http, server=server, serving=serving)
    finally:
        app.state.bridge.stopping.set()
        server.should_exit = True
        await serving
