"""h2load, a load generator in C, submits tasks over gRPC: one in Python takes half a millisecond of each call and a core for itself."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

from warmlane.admission.v1 import admission_service_pb2 as pb

_METHOD = "/warmlane.admission.v1.AdmissionService/SubmitTask"
# Beyond the time that a load is to take.
_PATIENCE_S = 60.0


def is_here() -> bool:
    """Debian has it in nghttp2-client."""
    return shutil.which("h2load") is not None


async def answers(port: int, request: pb.SubmitTaskRequest, folder: Path, *, in_flight: int, amount: int) -> tuple[float, list[float]]:
    """Submits so many one after the other, so many at a time. Answers a second, and the seconds of each: the generator's own start and end
    do not count. Refusals are answers too: gRPC tells them beside HTTP's status."""
    log = folder / "answers"
    log.unlink(missing_ok=True)
    await _ended(await _started(port, request, folder, amount, in_flight, f"--log-file={log}"), _PATIENCE_S)
    # Of each its start and how long it took, in microseconds, and its status.
    lines = [[int(value) for value in line.split()] for line in log.read_text().splitlines()]
    answered = sum(status == HTTPStatus.OK for _, status, _ in lines)
    if answered != amount:
        msg = f"of {amount} requests {answered} were answered"
        raise RuntimeError(msg)
    lasted_us = max(start + took for start, _, took in lines) - min(start for start, _, _ in lines)
    return amount / lasted_us * 1_000_000, [took / 1_000_000 for _, _, took in lines]


@contextlib.asynccontextmanager
async def flood(
    port: int, request: pb.SubmitTaskRequest, folder: Path, *, per_s: int, in_flight: int, seconds: float
) -> AsyncIterator[None]:
    """Submits so many a second, so many at a time at most, beside the block; the block's end waits for the last."""
    process = await _started(port, request, folder, int(per_s * seconds), in_flight, f"--rps={per_s}")
    try:
        yield
    finally:
        await _ended(process, seconds + _PATIENCE_S)


async def _started(
    port: int, request: pb.SubmitTaskRequest, folder: Path, amount: int, in_flight: int, *options: str
) -> asyncio.subprocess.Process:
    message, body = request.SerializeToString(), folder / "request"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    numbers = ["--clients=1", f"--requests={amount}", f"--max-concurrent-streams={in_flight}"]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", str(body), f"http://127.0.0.1:{port}{_METHOD}"]
    return await asyncio.create_subprocess_exec("h2load", *numbers, *options, *headers, stdout=asyncio.subprocess.DEVNULL)


async def _ended(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Waits for its end, and brings it about if it does not come."""
    try:
        await asyncio.wait_for(process.wait(), within_s)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
