"""The bridge with its admission double and a local object store, for tests over HTTP."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from obstore.store import LocalStore
from PIL import Image
from warmlane.admission.v1.access_service_pb2 import SessionState
from warmlane.admission.v1.task_pb2 import Stage, Task, TaskState
from warmlane.generation.v1.generation_pb2 import Result

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.config import BridgeSettings
from http_bridge.server import HttpServer, http_server
from runtime.submitter import Patience
from tests.harness.admission_double import AdmissionDouble, admission_double, make_task
from tests.harness.http import NO_AUTHORITIES

if TYPE_CHECKING:
    from fastapi import FastAPI
    from obstore.store import ObjectStore

    from http_bridge.metrics import HttpMetrics

KEY = "test-key-0123456789"
WITH_KEY = {"X-API-Key": KEY}
DONE_ID = "d" * 32
QUICK = Patience(reach_s=0.3, pause_s=0.02)
"""Enough for an admission in this process; one that is not there is not waited for."""


@dataclass(frozen=True, kw_only=True)
class BridgeUnderTest:
    """A bridge that serves.

    Attributes:
        http: speaks to it; sends no credential by itself.
        admission: what stands behind it.
        folder: the object store.
        server: what listens, where something does.
    """

    app: FastAPI
    http: httpx.AsyncClient
    admission: AdmissionDouble
    folder: Path
    server: HttpServer | None = None

    def add_session(self, *, state: str = "ACTIVE", session_id: str = "s1") -> dict[str, str]:
        """A session in admission; the headers that use it."""
        token = f"token-of-{session_id}"
        self.admission.sessions[token] = (SessionState.Value(f"SESSION_STATE_{state}"), session_id)
        return {"Cookie": f"gg_session={token}"}

    def add_done_task(self, content: bytes = b"0123456789", *, task_id: str = DONE_ID, **fields: Any) -> Task:
        """A finished task with its files in the store."""
        video, preview = f"results/{task_id}/1/video.mp4", f"results/{task_id}/1/preview.jpg"
        for key, data in ((video, content), (preview, b"jpeg bytes")):
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        result = Result(
            video_key=video,
            media_type="video/mp4",
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            preview_key=preview,
            width=512,
            height=512,
            num_frames=17,
            fps=16,
        )
        state = {"state": TaskState.TASK_STATE_DONE, "stage": Stage.STAGE_COMPLETED, "progress": 100, "result": result}
        task = make_task(task_id, **{**state, **fields})
        self.admission.tasks[task_id] = task
        return task

    def stored_inputs(self) -> list[Path]:
        """The input images in the store."""
        return sorted((self.folder / "inputs").glob("*"))


def bridge_settings(address: str, **settings: Any) -> BridgeSettings:
    """Settings for a test: the key, and whatever else is given."""
    return BridgeSettings(**{"admission_address": address, "api_key": KEY, "object_store_url": "file:///unused", **settings})


@asynccontextmanager
async def running_bridge(
    folder: Path,
    *,
    patience: Patience | None = None,
    metrics: HttpMetrics | None = None,
    objects: ObjectStore | None = None,
    **settings: Any,
) -> AsyncIterator[BridgeUnderTest]:
    """A bridge that is called in this process, with real gRPC behind it."""
    async with admission_double() as (double, address):
        client = AdmissionClient(address, patience=patience or QUICK)
        app = create_app(bridge_settings(address, **settings), client, objects or LocalStore(folder, mkdir=True), metrics)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://bridge") as http:
            yield BridgeUnderTest(app=app, http=http, admission=double, folder=folder)


@asynccontextmanager
async def bridge_before(address: str, objects: ObjectStore, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A bridge that is called in this process, before an admission and an object store of the test's; what speaks to it."""
    app = create_app(bridge_settings(address, **settings), AdmissionClient(address, patience=QUICK), objects)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://bridge") as http:
        yield http


@asynccontextmanager
async def served_bridge(
    folder: Path,
    *,
    patience: Patience | None = None,
    spares_loopback: bool = True,
    objects: ObjectStore | None = None,
    **settings: Any,
) -> AsyncIterator[BridgeUnderTest]:
    """A bridge behind a real HTTP server on a free port. Without `spares_loopback` this machine is limited as any other."""
    async with admission_double() as (double, address):
        made = bridge_settings(address, http_bind="127.0.0.1:0", **settings)
        app = create_app(made, AdmissionClient(address, patience=patience or QUICK), objects or LocalStore(folder, mkdir=True))
        server = http_server(app, made, spares_loopback=spares_loopback)
        serving = asyncio.create_task(server.serve(), name="http-server")
        try:
            async with asyncio.timeout(10):
                await server.listening.wait()
            async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=f"http://127.0.0.1:{server.port}", timeout=20) as http:
                yield BridgeUnderTest(app=app, http=http, admission=double, folder=folder, server=server)
        finally:
            server.should_exit = True
            await serving


def png(colour: str = "red", size: tuple[int, int] = (32, 32)) -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """The content as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
