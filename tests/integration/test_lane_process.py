"""A lane as a process: its own gRPC server, its signals, and what is left when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from warmlane.generation.v1 import generation_pb2
from warmlane.lane.v1 import inspection_service_pb2 as pb
from warmlane.lane.v1.inspection_service_pb2_grpc import InspectionServiceStub

from runtime.lane.inspection import SERVICE_NAME
from runtime.rpc import create_channel

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneProcess:
    """A lane that runs without an admission."""

    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel

    async def status(self) -> pb.GetStatusResponse:
        """What it says of itself."""
        stub = InspectionServiceStub(self.channel)
        return await stub.GetStatus(pb.GetStatusRequest(), timeout=10)

    async def until(self, condition: Callable[[pb.GetStatusResponse], bool]) -> pb.GetStatusResponse:
        """The first state that fulfils the condition."""
        async with asyncio.timeout(WAIT_S):
            while not condition(status := await self.status()):  # noqa: ASYNC110 (nothing tells when it changes)
                await asyncio.sleep(0.05)
        return status

    async def is_serving(self, service: str) -> bool:
        """What grpc.health.v1 says."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def lane_process(folder: Path, module: str = "tests.harness.lane_process") -> AsyncIterator[LaneProcess]:
    """Starts it; ends it whatever happens."""
    (folder / "models").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        # This tree's generated code, too: another may be installed.
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "protos" / "gen"))),
        "WARMLANE_INSPECTION_BIND": "127.0.0.1:0",
        "WARMLANE_METRICS_BIND": "127.0.0.1:0",
        "WARMLANE_ADMISSION_ADDRESS": "127.0.0.1:1",
        "WARMLANE_LANE_ID": "lane-test",
        "WARMLANE_DEVICE": "cpu",
        "WARMLANE_LOG_FORMAT": "json",
        "WARMLANE_MODELS_DIR": str(folder / "models"),
        "WARMLANE_OBJECT_STORE_URL": (folder / "objects").as_uri(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, env=environment, stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        port, reading = await _port_of(process)
        async with create_channel(f"127.0.0.1:{port}") as channel:
            yield LaneProcess(process=process, channel=channel)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await reading


async def _port_of(process: asyncio.subprocess.Process) -> tuple[int, asyncio.Task[bytes]]:
    """The port, from its first log lines; the rest is read on, so that the pipe never fills."""
    assert process.stderr is not None
    async with asyncio.timeout(WAIT_S):
        while line := await process.stderr.readline():
            event = json.loads(line)
            if event["event"] == "lane_started":
                return int(event["port"]), asyncio.create_task(process.stderr.read())
    pytest.fail("the lane did not start")


async def test_health_tells_the_lane_apart_from_its_agent_when_the_model_becomes_warm(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "broken").touch()
    async with lane_process(tmp_path) as lane:
        status = await lane.until(lambda status: "the weights are broken" in status.report.reason)
        assert await lane.is_serving("")
        assert not await lane.is_serving(SERVICE_NAME)
        (tmp_path / "models" / "broken").unlink()
        status = await lane.until(lambda status: status.report.warm)
        assert await lane.is_serving(SERVICE_NAME)
    assert status.report.resident_model == "anisora"
    assert not status.attached
    assert status.pipeline_pid > 0


async def test_it_ends_with_code_0_and_its_pipeline_too_when_it_is_told_to_stop(tmp_path: Path) -> None:
    async with lane_process(tmp_path) as lane:
        status = await lane.until(lambda status: status.report.warm)
        lane.process.terminate()
        async with asyncio.timeout(WAIT_S):
            assert await lane.process.wait() == 0
        assert not psutil.pid_exists(status.pipeline_pid)


async def test_the_pipeline_ends_when_the_agent_is_killed(tmp_path: Path) -> None:
    async with lane_process(tmp_path) as lane:
        status = await lane.until(lambda status: status.report.warm)
        pipeline = psutil.Process(status.pipeline_pid)
        lane.process.kill()
        await lane.process.wait()
        await asyncio.to_thread(psutil.wait_procs, [pipeline], timeout=WAIT_S)
        assert not pipeline.is_running()


async def test_the_agent_answers_when_the_pipeline_is_killed(tmp_path: Path) -> None:
    async with lane_process(tmp_path) as lane:
        first = await lane.until(lambda status: status.report.warm)
        psutil.Process(first.pipeline_pid).kill()
        second = await lane.until(lambda status: status.report.cold_starts == 2 and status.report.warm)
    assert second.pipeline_pid != first.pipeline_pid


async def test_the_load_is_told_while_it_goes_on_and_a_kill_ends_it(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "slow").touch()
    async with lane_process(tmp_path) as lane:
        status = await lane.until(lambda status: status.report.load.read_bytes > 0)
        load = status.report.load
        assert (load.model, load.stage, load.read_bytes, load.total_bytes) == ("anisora", "reading anisora", 500, 1000)
        assert status.report.reason == "anisora is being loaded"
        assert not await lane.is_serving(SERVICE_NAME)
        psutil.Process(status.pipeline_pid).kill()
        status = await lane.until(lambda status: status.report.HasField("start_failure"))
        assert status.report.start_failure.cause == generation_pb2.START_FAILURE_CAUSE_PROCESS_DIED
        assert "signal 9, SIGKILL" in status.report.start_failure.reason
        assert "try 1 failed; the next at " in status.report.reason
        assert not status.report.HasField("load")
        (tmp_path / "models" / "slow").unlink()
        status = await lane.until(lambda status: status.report.warm)
    assert not status.report.HasField("start_failure")
    assert status.report.reason == ""


@pytest.mark.long
@pytest.mark.torch
async def test_the_lane_becomes_warm_without_a_restart_when_its_weights_come_into_place(tmp_path: Path) -> None:
    from lane_anisora.tiny import build

    folder, made = tmp_path / "models" / "anisora-tiny-v1", tmp_path / "made"
    folder.mkdir(parents=True)
    made.mkdir()
    async with lane_process(tmp_path, "lane_anisora") as lane:
        build(made)
        status = await lane.until(lambda status: status.report.HasField("start_failure"))
        assert status.report.start_failure.cause == generation_pb2.START_FAILURE_CAUSE_WEIGHTS_UNUSABLE
        assert "anisora-tiny-v1" in status.report.start_failure.reason
        assert not await lane.is_serving(SERVICE_NAME)
        assert await lane.is_serving("")
        # As `warmlane prepare` ends: at once, by a rename.
        made.rename(folder)
        status = await lane.until(lambda status: status.report.warm)
        assert await lane.is_serving(SERVICE_NAME)
    assert status.report.cold_starts >= 2
    assert not status.report.HasField("start_failure")
