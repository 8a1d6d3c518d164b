"""The bridge as a process of its own, beside an admission double in the test: for what is measured of a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.harness.admission_double import AdmissionDouble, admission_double
from tests.harness.bridge import KEY
from tests.harness.http import NO_AUTHORITIES

_START_S = 60.0
_END_S = 20.0


@dataclass(frozen=True, kw_only=True)
class BridgeProcess:
    """A bridge that runs.

    Attributes:
        http: speaks to it with the API key.
        pid: its process id.
        port: where it listens.
        events: what it logged so far.
    """

    http: httpx.AsyncClient
    admission: AdmissionDouble
    pid: int
    port: int
    events: list[dict[str, object]]

    def resident_bytes(self) -> int:
        """What it holds in memory now."""
        return self._status_bytes("VmRSS")

    def forget_peak(self) -> None:
        """From now on the peak is counted anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def peak_bytes(self) -> int:
        """The most that it held in memory since `forget_peak`."""
        return self._status_bytes("VmHWM")

    def _status_bytes(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@asynccontextmanager
async def bridge_process(object_store_url: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[BridgeProcess]:
    """Runs one until the block ends."""
    async with admission_double() as (double, address):
        settings = {
            "WARMLANE_HTTP_BIND": "127.0.0.1:0",
            "WARMLANE_METRICS_BIND": "",
            "WARMLANE_ADMISSION_ADDRESS": address,
            "WARMLANE_API_KEY": KEY,
            "WARMLANE_LOG_FORMAT": "json",
            "WARMLANE_OBJECT_STORE_URL": object_store_url,
            **(environment or {}),
        }
        command = (sys.executable, "-m", "http_bridge")
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **settings}, stderr=asyncio.subprocess.PIPE)
        events: list[dict[str, object]] = []
        serving = asyncio.Event()
        reading = asyncio.create_task(_read(process, events, serving), name="read-log")
        try:
            async with asyncio.timeout(_START_S):
                await serving.wait()
            port = next(int(str(event["port"])) for event in events if event["event"] == "http_serving")
            async with httpx.AsyncClient(
                verify=NO_AUTHORITIES, base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": KEY}, timeout=60
            ) as http:
                yield BridgeProcess(http=http, admission=double, pid=process.pid, port=port, events=events)
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(_END_S):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
            await reading


async def _read(process: asyncio.subprocess.Process, events: list[dict[str, object]], serving: asyncio.Event) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        events.append(json.loads(line))
        if events[-1]["event"] == "http_serving":
            serving.set()
