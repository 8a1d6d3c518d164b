"""The admission process: what it consists of, the order in which that comes up, and the order in which it is taken down."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from admission import access_observer
from admission.access import Access
from admission.config import AdmissionSettings
from admission.core.limits import Limits
from admission.engine import Engine
from admission.fitting import fit_rules
from admission.metrics.access import AccessMetrics
from admission.metrics.decisions import DecisionMetrics
from admission.metrics.state import StateCollector
from admission.observer import SILENT, Both, Observer
from admission.retention import InWork, Keeper
from admission.service.clients import IMAGES_AT_ONCE
from admission.service.doors import Doors
from admission.service.errors import translate
from admission.service.mount import NAMES, services
from admission.service.submitting import SUBMIT_TASK
from admission.store.factory import open_store
from admission.store.port import Store
from admission.traces import TaskTraces
from runtime.clock import SystemClock
from runtime.image_process import ImageProcesses
from runtime.metrics.registry import Registry
from runtime.metrics.rpc import RpcMetrics
from runtime.metrics.server import MetricsServer
from runtime.objects import open_object_store, tell_problem
from runtime.process import stop_event
from runtime.rpc import OVERALL, GrpcServer
from runtime.rules.catalogue import MODELS
from runtime.traces.process import tracing
from runtime.traces.rpc import RpcTraces
from runtime.traces.tracer import Tracer

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# Time for downloads and single calls in work to end; waits and streams are ended at once.
_GRACE_S = 3.0

_log = structlog.get_logger()


async def serve(settings: AdmissionSettings, *, limits: Limits | None = None, on_serving: Callable[[int], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT; raises what makes it impossible to go on.

    Args:
        settings: of the process.
        limits: other ones than the design's, for measurements.
        on_serving: told the port once calls are answered.
    """
    stop = stop_event()
    # Outside all else: what is written in the last moments is sent too.
    async with tracing(settings, service="admission") as tracer:
        await _serve(settings, tracer, stop, limits, on_serving)


async def _serve(
    settings: AdmissionSettings, tracer: Tracer, stop: asyncio.Event, limits: Limits | None, on_serving: Callable[[int], None] | None
) -> None:
    doors, clock = Doors(), SystemClock()
    registry, is_counted = Registry("admission"), bool(settings.metrics_bind)
    objects, store = open_object_store(settings.object_store_url), open_store(settings.database_url, has_writer=True)
    engine = Engine(
        store=store,
        clock=clock,
        objects=objects,
        limits=limits,
        fit_rules=fit_rules(settings.baseline_gpu),
        observer=_observer(registry, tracer, is_counted=is_counted),
    )
    access = Access(store=store.access, clock=clock, observer=AccessMetrics(registry) if is_counted else access_observer.SILENT)
    registry.register(StateCollector(engine.snapshot))
    images = ImageProcesses(IMAGES_AT_ONCE)
    calls = RpcMetrics(registry) if is_counted else None
    # A client that brings no trace begins one with what it asks for.
    traces = RpcTraces(tracer, roots=(SUBMIT_TASK,)) if tracer.is_on else None
    server = GrpcServer(
        settings.admission_bind,
        services(
            controller=engine,
            access=access,
            objects=objects,
            clock=clock,
            doors=doors,
            check_image=images.check,
            observer=calls,
            traces=traces,
        ),
        translate=translate,
        observer=calls,
        credentials=settings.server_credentials(),
        traces=traces,
        channelz=settings.channelz,
    )
    async with MetricsServer(settings.metrics_bind, registry):
        # The ports come first: a second admission must not claim the epoch of one that serves.
        await server.start()
        _log.info("listening", port=server.port)
        try:
            await _open(store, engine, doors)
            await _set_serving(server, True)
            _log.info("serving", port=server.port)
            if on_serving is not None:
                on_serving(server.port)
            keeper = Keeper(
                store=store,
                access=store.access,
                objects=objects,
                clock=clock,
                keep=settings.keep(),
                in_work=InWork(used=engine.inputs_in_use, imports=engine.imports),
            )
            await _until_stopped(stop, engine, keeper, objects)
        finally:
            await _take_down(server, doors, access, engine, store)
            images.close()


def _observer(registry: Registry, tracer: Tracer, *, is_counted: bool) -> Observer:
    counting = DecisionMetrics(registry, MODELS) if is_counted else SILENT
    if not tracer.is_on:
        return counting
    return Both(counting, TaskTraces(tracer))


async def _open(store: Store, engine: Engine, doors: Doors) -> None:
    await store.open()
    await engine.start()
    doors.open()
    # What is there now stays: no collection need look at it.
    gc.freeze()


async def _until_stopped(stop: asyncio.Event, engine: Engine, keeper: Keeper, objects: ObjectStore) -> None:
    """Returns when the process shall stop; raises what makes it impossible to go on."""
    stopped = asyncio.create_task(stop.wait(), name="admission-stop")
    failed = asyncio.create_task(engine.wait_failed(), name="admission-failure")
    keeping = asyncio.create_task(keeper.run(engine.epoch), name="admission-retention")
    # Said once, not waited for: calls that need the object store answer `service_unavailable` until it does.
    telling = asyncio.create_task(tell_problem(objects), name="admission-object-store")
    try:
        await asyncio.wait((stopped, failed, keeping), return_when=asyncio.FIRST_COMPLETED)
        for ended in (failed, keeping):
            if ended.done():
                ended.result()
    finally:
        for task in (stopped, failed, keeping, telling):
            task.cancel()
        await asyncio.gather(stopped, failed, keeping, telling, return_exceptions=True)


async def _take_down(server: GrpcServer, doors: Doors, access: Access, engine: Engine, store: Store) -> None:
    """Says so first, then ends waits and streams, then what they stood on."""
    _log.info("stopping")
    await _set_serving(server, False)
    doors.close()
    await server.stop(_GRACE_S)
    await access.close()
    await engine.stop()
    await store.close()
    _log.info("stopped")


async def _set_serving(server: GrpcServer, serving: bool) -> None:
    for name in (*NAMES, OVERALL):
        await server.set_serving(name, serving)
