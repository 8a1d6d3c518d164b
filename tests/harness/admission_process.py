"""The process `python -m admission`, started by a test on a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, cast

# A cold start on a busy machine.
_PATIENCE_S = 30.0


class Admission:
    """The process, started by a test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Made by `start_admission`."""
        self.process = process

    async def port(self) -> int:
        """Where it serves, once it does."""
        line: dict[str, Any] = {}
        async with asyncio.timeout(_PATIENCE_S):
            while line.get("event") != "serving":
                line = json.loads(await self.stderr().readline())
        return cast("int", line["port"])

    def stderr(self) -> asyncio.StreamReader:
        """What it says."""
        assert self.process.stderr is not None
        return self.process.stderr

    async def end(self) -> tuple[int, str]:
        """Exit code and what was still said."""
        async with asyncio.timeout(_PATIENCE_S):
            said = (await self.stderr().read()).decode()
            return await self.process.wait(), said

    async def kill(self) -> None:
        """Ends it as the kernel would."""
        if self.process.returncode is None:
            self.process.kill()
            await self.end()


async def start_admission(folder: Path, bind: str = "127.0.0.1:0") -> Admission:
    """Starts it on the data of the folder."""
    settings = {
        "WARMLANE_ADMISSION_BIND": bind,
        "WARMLANE_METRICS_BIND": "127.0.0.1:0",
        "WARMLANE_DATABASE_URL": f"sqlite:///{folder / 'admission.db'}",
        "WARMLANE_OBJECT_STORE_URL": (folder / "objects").as_uri(),
        "WARMLANE_LOG_FORMAT": "json",
    }
    command = (sys.executable, "-m", "admission")
    return Admission(await asyncio.create_subprocess_exec(*command, env=os.environ | settings, stderr=asyncio.subprocess.PIPE))
