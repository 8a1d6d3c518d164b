"""The process `http-bridge`: settings in, HTTP out, clean end on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import gc
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
import uvloop
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import SettingsError

from http_bridge.app import create_app
from http_bridge.client import AdmissionClient
from http_bridge.config import BridgeSettings
from http_bridge.context import IMAGES_AT_ONCE
from http_bridge.metrics import HttpMetrics
from http_bridge.server import HttpServer, http_server
from runtime.addresses import BindError
from runtime.image_process import ImageProcesses
from runtime.logs import configure_logging
from runtime.metrics.registry import Registry
from runtime.metrics.server import MetricsServer
from runtime.objects import open_object_store, tell_problem
from runtime.process import GC_THRESHOLDS, stop_event
from runtime.settings import problems
from runtime.traces.process import tracing
from runtime.traces.tracer import Tracer

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_LOG = structlog.get_logger()


async def serve(settings: BridgeSettings) -> None:
    """Serves until SIGTERM or SIGINT; requests that run are ended, held ones are told to come again."""
    stop = stop_event()
    # Outside all else: what is written in the last moments is sent too.
    async with tracing(settings, service="http-bridge") as tracer:
        await _serve(settings, tracer, stop)
    _LOG.info("http_stopped")


async def _serve(settings: BridgeSettings, tracer: Tracer, stop: asyncio.Event) -> None:
    registry = Registry("http-bridge")
    metrics = HttpMetrics(registry) if settings.metrics_bind else None
    client = AdmissionClient(settings.admission_address, credentials=settings.admission_credentials(), carries_traces=tracer.is_on)
    objects = open_object_store(settings.object_store_url)
    app = create_app(settings, client, objects, metrics, tracer)
    server = http_server(app, settings, on_refused=metrics.refused if metrics else lambda _reason: None)
    with ImageProcesses(IMAGES_AT_ONCE) as images:
        # Nothing is served yet: every request finds this one.
        app.state.bridge = replace(app.state.bridge, check_image=images.check)
        async with MetricsServer(settings.metrics_bind, registry):
            await _run(server, app, objects, stop)


async def _run(server: HttpServer, app: FastAPI, objects: ObjectStore, stop: asyncio.Event) -> None:
    """Runs the server and what goes on beside it."""
    beside = (
        asyncio.create_task(_stop_when(stop, app, server), name="stop-server"),
        asyncio.create_task(tell_problem(objects), name="try-object-store"),
    )
    try:
        await server.serve()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _stop_when(stop: asyncio.Event, app: FastAPI, server: HttpServer) -> None:
    await stop.wait()
    _LOG.info("http_stopping")
    app.state.bridge.stopping.set()
    server.should_exit = True


def main() -> None:
    """Reads the settings and runs the process."""
    try:
        settings = BridgeSettings()
    except ValidationError as error:
        sys.stderr.writelines(f"http-bridge: {problem}\n" for problem in problems(error))
        raise SystemExit(2) from None
    except SettingsError as error:
        # Of a list that is no JSON; it names the field, and not the value.
        sys.stderr.write(f'http-bridge: {error}; write it as JSON, such as ["192.0.2.1", "198.51.100.0/24"]\n')
        raise SystemExit(2) from None
    configure_logging(settings, process="http-bridge")
    if settings.api_key is None:
        _LOG.warning("api_key_missing", setting="WARMLANE_API_KEY", serves_everyone=settings.allow_unauthenticated)
    _LOG.info("http_starting", bind=settings.http_bind, admission=settings.admission_address)
    gc.set_threshold(*GC_THRESHOLDS)
    # What was imported stays: no collection need look at it.
    gc.freeze()
    try:
        uvloop.run(serve(settings))
    except BindError as error:
        _LOG.error("cannot_listen", reason=str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
