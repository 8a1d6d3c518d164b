"""An admission with scripted answers, in a thread with a loop of its own, so that commands can be run as users run them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from runtime.credentials import OPEN_SERVER, ServerCredentials
from tests.unit.command_line.doubles import Script, serving


@dataclass
class Served:
    """A running double.

    Attributes:
        address: host:port.
        script: what it answers.
    """

    address: str
    script: Script


@pytest.fixture
async def admission() -> AsyncIterator[Served]:
    """A double on the test's own loop."""
    script = Script()
    server = serving(script)
    await server.start()
    yield Served(address=f"127.0.0.1:{server.port}", script=script)
    await server.stop(0)


@pytest.fixture
def threaded_admission() -> Iterator[Served]:
    """A double beside the test, for commands that run a loop of their own."""
    with served_beside() as served:
        yield served


@contextmanager
def served_beside(credentials: ServerCredentials = OPEN_SERVER) -> Iterator[Served]:
    """A double in a thread of its own, as long as the block."""
    script = Script()
    started: threading.Event = threading.Event()
    found: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        server, stop = serving(script, credentials), asyncio.Event()
        await server.start()
        found.append((server.port, asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="admission-double")
    thread.start()
    assert started.wait(10), "the double did not start"
    port, loop, stop = found[0]
    try:
        yield Served(address=f"127.0.0.1:{port}", script=script)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


@pytest.fixture
def runner() -> CliRunner:
    """Runs commands in this process."""
    return CliRunner()
