"""`python -m admission`: wires settings, store, engine and services together, and takes them down in order."""

from __future__ import annotations

import asyncio
import gc
import sys

import structlog
import uvloop
from pydantic import ValidationError

from admission.config import AdmissionSettings
from admission.engine import Engine
from admission.retention import Keeper
from admission.service.doors import Doors
from admission.service.errors import translate
from admission.service.mount import NAMES, services
from admission.store.factory import open_store
from admission.store.port import StaleEpochError, Store, StoreUnavailableError
from runtime.addresses import BindError
from runtime.clock import SystemClock
from runtime.logs import configure_logging
from runtime.objects import open_object_store
from runtime.process import stop_event
from runtime.rpc import OVERALL, GrpcServer
from runtime.settings import problems

# Time for downloads and single calls in work to end; waits and streams are ended at once.
_GRACE_S = 3.0

# A call makes a few hundred objects and no cycles, so collections find nothing: with Python's thresholds (700, 10, 10) they take about a
# quarter of the time under load (benchmarks/admission_speed.py), with these a few percent, for a few MiB.
GC_THRESHOLDS = (20_000, 50, 100)

_log = structlog.get_logger()


def main() -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings = AdmissionSettings()
    except ValidationError as error:
        return _fail("; ".join(problems(error)))
    configure_logging(settings, process="admission")
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        uvloop.run(_serve(settings))
    except (BindError, ValueError, OSError, StoreUnavailableError, StaleEpochError) as error:
        return _fail(str(error))
    except Exception as error:
        _log.critical("admission_failed", exc_info=error)
        return 1
    return 0


async def _serve(settings: AdmissionSettings) -> None:
    stop, doors, clock = stop_event(), Doors(), SystemClock()
    objects, store = open_object_store(settings.object_store_url), open_store(settings.database_url)
    engine = Engine(store=store, clock=clock, objects=objects)
    server = GrpcServer(
        settings.admission_bind,
        services(controller=engine, sessions=store, objects=objects, clock=clock, doors=doors),
        translate=translate,
    )
    # The port comes first: a second admission must not claim the epoch of one that serves.
    await server.start()
    _log.info("listening", port=server.port)
    try:
        await store.open()
        await engine.start()
        doors.open()
        # What is there now stays: no collection need look at it.
        gc.freeze()
        await _set_serving(server, True)
        _log.info("serving", port=server.port)
        keeper = Keeper(store=store, objects=objects, clock=clock, keep=settings.keep(), used=engine.inputs_in_use)
        await _until_stopped(stop, engine, keeper)
    finally:
        await _take_down(server, doors, engine, store)


async def _until_stopped(stop: asyncio.Event, engine: Engine, keeper: Keeper) -> None:
    """Returns when the process shall stop; raises what makes it impossible to go on."""
    stopped = asyncio.create_task(stop.wait(), name="admission-stop")
    failed = asyncio.create_task(engine.wait_failed(), name="admission-failure")
    keeping = asyncio.create_task(keeper.run(engine.epoch), name="admission-retention")
    try:
        await asyncio.wait((stopped, failed, keeping), return_when=asyncio.FIRST_COMPLETED)
        for ended in (failed, keeping):
            if ended.done():
                ended.result()
    finally:
        for task in (stopped, failed, keeping):
            task.cancel()
        await asyncio.gather(stopped, failed, keeping, return_exceptions=True)


async def _take_down(server: GrpcServer, doors: Doors, engine: Engine, store: Store) -> None:
    """Says so first, then ends waits and streams, then what they stood on."""
    _log.info("stopping")
    await _set_serving(server, False)
    doors.close()
    await server.stop(_GRACE_S)
    await engine.stop()
    await store.close()
    _log.info("stopped")


async def _set_serving(server: GrpcServer, serving: bool) -> None:
    for name in (*NAMES, OVERALL):
        await server.set_serving(name, serving)


def _fail(sentence: str) -> int:
    sys.stderr.write(f"admission: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
