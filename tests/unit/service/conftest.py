"""The services on a real server: access on a store in memory, doubles behind the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from admission.access import Access
from admission.service.doors import Doors
from admission.service.errors import translate
from admission.service.mount import services
from runtime.objects import open_object_store
from runtime.rpc import GrpcServer, create_channel
from tests.harness.clock import FakeClock
from tests.harness.store import FailingStore
from tests.unit.service.double import ControllerDouble

if TYPE_CHECKING:
    from obstore.store import ObjectStore


@dataclass
class Stack:
    """What a test can reach."""

    controller: ControllerDouble
    store: FailingStore
    objects: ObjectStore
    folder: Path
    clock: FakeClock
    doors: Doors
    channel: grpc.aio.Channel

    def stored(self) -> list[str]:
        """Keys in the object store."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """Serves with open doors."""
    folder = tmp_path / "objects"
    controller, clock, doors = ControllerDouble(), FakeClock(), Doors()
    store = FailingStore(now=lambda: clock.now().utc)
    await store.open()
    access = Access(store=store.access, clock=clock)
    objects = open_object_store(folder.as_uri())
    server = GrpcServer(
        "127.0.0.1:0",
        services(controller=controller, access=access, objects=objects, clock=clock, doors=doors),
        translate=translate,
    )
    await server.start()
    doors.open()
    async with create_channel(f"127.0.0.1:{server.port}") as channel:
        yield Stack(controller, store, objects, folder, clock, doors, channel)
    await server.stop(0)
    await access.close()
