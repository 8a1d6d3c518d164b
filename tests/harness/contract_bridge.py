"""The bridge on a real port, with the real services of admission and lanes that render nothing, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obstore.store import LocalStore
from pydantic import SecretStr

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.config import BridgeSettings
from http_bridge.server import http_server
from runtime.rules.catalogue import MODELS
from tests.harness.admission_services import Stack, admission_stack
from tests.harness.breaking import Breaker, Breaking
from tests.harness.bridge import KEY
from tests.harness.noop_lanes import noop_lanes

ADMIN_KEY = "test-admin-key-0123456789"
_START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractBridge:
    """A bridge that serves.

    Attributes:
        url: without a prefix.
        settings: of the bridge.
        objects: the folder of the object store.
        admission: what stands behind it; its parts belong to the thread's loop.
        loop: that loop.
    """

    url: str
    settings: BridgeSettings
    objects: Path
    admission: Stack
    loop: asyncio.AbstractEventLoop

    def advance(self, seconds: float) -> None:
        """Lets time pass for admission, and what is due happen."""
        self.admission.clock.advance(seconds)
        self.loop.call_soon_threadsafe(self.admission.engine.tick)


@contextmanager
def contract_bridge(
    folder: Path, *, models: Sequence[str] = tuple(MODELS), breaker: Breaker | None = None, **settings: Any
) -> Iterator[ContractBridge]:
    """Serves until the end; without limits of rates, unless they are given.

    `models` have a lane each; a request for another one is held. `breaker` may break replies.
    """
    serving = _Serving(folder, settings, models, breaker)
    thread = threading.Thread(target=serving.run, name="contract-bridge", daemon=True)
    thread.start()
    try:
        yield serving.bridge()
    finally:
        serving.stop()
        thread.join(_START_S)


class _Serving:
    """What the thread runs, and what the test's thread says to it."""

    def __init__(self, folder: Path, settings: dict[str, Any], models: Sequence[str], breaker: Breaker | None) -> None:
        self._folder = folder
        self._models = models
        self._breaker = breaker
        self._settings = settings
        self._started: Future[ContractBridge] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    def bridge(self) -> ContractBridge:
        return self._started.result(_START_S)

    def stop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        objects = self._folder / "objects"
        async with admission_stack(self._folder) as admission, noop_lanes(admission.channel, objects, self._models):
            address = f"127.0.0.1:{admission.port}"
            settings = _settings(address, objects, self._settings)
            app = create_app(settings, AdmissionClient(address), LocalStore(objects, mkdir=True))
            # Around the whole application: busy routes have a way of their own through it.
            served = app if self._breaker is None else Breaking(app, self._breaker)
            server = http_server(served, settings)
            serving = asyncio.create_task(server.serve(), name="http-server")
            async with asyncio.timeout(_START_S):
                await server.listening.wait()
            url = f"http://127.0.0.1:{server.port}"
            self._started.set_result(ContractBridge(url=url, settings=settings, objects=objects, admission=admission, loop=self._loop))
            await self._stop.wait()
            app.state.bridge.stopping.set()
            server.should_exit = True
            await serving


def _settings(address: str, objects: Path, settings: dict[str, Any]) -> BridgeSettings:
    unlimited = dict.fromkeys(("new_sessions_per_minute", "generations_per_minute", "bad_keys_per_minute"), 0)
    fixed = {
        "admission_address": address,
        "object_store_url": objects.as_uri(),
        "api_key": SecretStr(KEY),
        "admin_key": SecretStr(ADMIN_KEY),
    }
    return BridgeSettings(**{**fixed, **unlimited, "cookie_secure": False, "http_bind": "127.0.0.1:0", **settings})
