"""Runs one lane: the agent, the lane's own gRPC server, and an orderly end. The lanes' `__main__` modules call `run_lane`."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from pydantic import ValidationError
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub
from warmlane.lane.v1.inspection_service_pb2_grpc import add_InspectionServiceServicer_to_server

from runtime.addresses import BindError
from runtime.handshakes import told_handshakes
from runtime.lane.agent import Agent, AgentSettings
from runtime.lane.config import LaneSettings
from runtime.lane.convert import LaneIdentity
from runtime.lane.inspection import SERVICE_NAME, InspectionService
from runtime.lane.metrics.attempts import AttemptMetrics
from runtime.lane.metrics.catalogue import LaneLabels
from runtime.lane.metrics.state import LaneCollector
from runtime.lane.observer import SILENT, Both, LaneObserver
from runtime.lane.spans import AttemptSpans
from runtime.lane.work import WorkerSettings
from runtime.logs import configure_logging
from runtime.metrics.registry import Registry
from runtime.metrics.rpc import RpcMetrics
from runtime.metrics.server import MetricsServer
from runtime.process import stop_event
from runtime.rpc import OVERALL, GrpcServer, create_channel
from runtime.settings import problems
from runtime.traces.process import tracing
from runtime.traces.tracer import Tracer

_log = structlog.get_logger()

_SERVER_GRACE_S = 1.0


def run_lane(read_settings: Callable[[], LaneSettings], *, models: tuple[str, ...], catalog: str, is_dedicated: bool) -> int:
    """Runs a lane until SIGTERM or SIGINT; returns the exit code of the process.

    Args:
        read_settings: reads this lane's settings from the environment; pass the settings class.
        models: ids of the models that it serves; exactly one when dedicated.
        catalog: dotted name of the `renderer.Catalog` that loads them.
        is_dedicated: it keeps its model warm.
    """
    try:
        settings = read_settings()
    except ValidationError as error:
        sys.stderr.writelines(f"lane: {problem}\n" for problem in problems(error))
        return 2
    configure_logging(settings, process=settings.lane_id, lane=settings.lane_id)
    identity = LaneIdentity(lane_id=settings.lane_id, boot_id=uuid.uuid4().hex, is_dedicated=is_dedicated, models=models, catalog=catalog)
    try:
        asyncio.run(serve(settings, identity))
    except BindError as error:
        _log.error("cannot_listen", reason=str(error))
        return 1
    return 0


async def serve(settings: LaneSettings, identity: LaneIdentity) -> None:
    """Serves until a stop signal; raises what goes wrong inside the lane, so that its supervisor starts it anew."""
    stop = stop_event()
    # Outside all else: what is written in the last moments is sent too.
    async with tracing(settings, service=settings.lane_id) as tracer:
        await _serve(settings, identity, tracer, stop)
    _log.info("lane_stopped")


async def _serve(settings: LaneSettings, identity: LaneIdentity, tracer: Tracer, stop: asyncio.Event) -> None:
    changed = asyncio.Event()
    registry = Registry(settings.lane_id)
    labels = LaneLabels(settings.lane_id, "dedicated" if identity.is_dedicated else "degraded_shared")
    is_counted = bool(settings.metrics_bind)
    caller = settings.admission_credentials()
    async with (
        create_channel(settings.admission_address, caller) as channel,
        told_handshakes(channel, settings.admission_address, caller),
        MetricsServer(settings.metrics_bind, registry),
    ):
        agent = Agent(
            identity,
            AgentSettings(report_interval_s=settings.report_interval_s, stream_life_s=settings.stream_life_s),
            _worker_settings(settings, identity),
            DispatchServiceStub(channel),
            changed.set,
            _observer(registry, labels, identity, tracer, is_counted=is_counted),
        )
        registry.register(LaneCollector(agent, labels))
        service = InspectionService(agent, datetime.now(UTC))
        server = GrpcServer(
            settings.inspection_bind,
            {SERVICE_NAME: lambda to: add_InspectionServiceServicer_to_server(service, to)},
            observer=RpcMetrics(registry) if is_counted else None,
            credentials=settings.server_credentials(),
            channelz=settings.channelz,
        )
        await server.start()
        _log.info("lane_started", lane=identity.lane_id, boot=identity.boot_id, port=server.port, models=identity.models)
        running = asyncio.create_task(agent.run(), name="agent")
        health = asyncio.create_task(_tell_health(agent, server, changed), name="health")
        stopping = asyncio.create_task(stop.wait(), name="stop-signal")
        try:
            await asyncio.wait({running, health, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                _log.info("lane_draining", grace_s=settings.drain_grace_s)
                await agent.drain(settings.drain_grace_s)
                await running
        finally:
            await _end(running, health, stopping)
            await server.stop(_SERVER_GRACE_S)


def _observer(registry: Registry, labels: LaneLabels, identity: LaneIdentity, tracer: Tracer, *, is_counted: bool) -> LaneObserver:
    counting = AttemptMetrics(registry, labels, identity.models) if is_counted else SILENT
    return Both(counting, AttemptSpans(tracer, identity.lane_id)) if tracer.is_on else counting


async def _tell_health(agent: Agent, server: GrpcServer, changed: asyncio.Event) -> None:
    """Keeps grpc.health.v1 true: the process serves while its agent runs, the lane while its model is warm and it can render."""
    await server.set_serving(OVERALL, True)
    while True:
        changed.clear()
        status = agent.status
        await server.set_serving(SERVICE_NAME, status.warm and status.healthy)
        await changed.wait()


async def _end(*tasks: asyncio.Task[object]) -> None:
    """Ends the tasks; raises the first error that one of them ended with."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


def _worker_settings(settings: LaneSettings, identity: LaneIdentity) -> WorkerSettings:
    return WorkerSettings(
        name=identity.lane_id,
        catalog=identity.catalog,
        profile=settings.profile,
        models_dir=settings.models_dir,
        device=settings.device,
        object_store_url=settings.object_store_url,
        warm_model=identity.models[0] if identity.is_dedicated else "",
        torch_threads=settings.torch_threads,
        cancel_grace_s=settings.cancel_grace_s,
        load_deadline_s=settings.load_deadline_s,
        memory_budget_bytes=settings.memory_budget_bytes,
        memory_margin_bytes=settings.memory_margin_bytes,
        pinned_limit_bytes=settings.pinned_limit_bytes,
        attention_backend=settings.attention_backend,
        compile_blocks=settings.compile_blocks,
        overlap=settings.overlap,
    )
