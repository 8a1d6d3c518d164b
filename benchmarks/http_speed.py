"""`python -m benchmarks.http_speed`: what the bridge costs over HTTP, as ratios measured in one run on this machine.

* POST /generate to a durable 202 with 32 callers, against a bare FastAPI application that takes the same body and does nothing.
* GET /status of a queued task, with the API key and with a session, against the same.
* 500 open event streams: the memory that they take in bridge and admission, and how much they slow the rest.

One process each for the bridge, for admission (its real one, whose queues do not close at 25 tasks; the lanes are stubs that keep their
first lease), for the bare application and for the load, which all share the cores that this is run on. Measurements are interleaved, ratios
taken within a round, and their medians told. Each round begins with a third of a second that is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.admission_speed import WARM_S, end_process, open_channel, server_process
from benchmarks.stub_lane import stub_lane

_KEY = "benchmark-key-0123456789"
_CALLERS = 32
_STREAMS = 500
# So many tasks may wait in a queue in production; polled and watched tasks are these.
_QUEUED = 25
_START_S = 30.0
_POLL_S = 0.05
_PARTS = ("speed", "streams")
_MIB = 1024 * 1024

_BODY = {
    "model": "anisora",
    "type": "video",
    "mode": "t2v",
    "prompt": "a paper boat on a quiet pond at dawn, soft light, slow ripples, reeds that move in the wind",
    "negative_prompt": "blurred, low contrast",
    "width": 480,
    "height": 832,
    "num_frames": 81,
    "fps": 16,
    "seed": -1,
    "guidance_scale": 1.0,
    "motion_score": 3.0,
    "output_format": "mp4",
}

Figures = dict[str, float]


def request_text(method: str, path: str, headers: Mapping[str, str], body: Mapping[str, object] | None = None) -> str:
    """One HTTP/1.1 request, whole."""
    content = "" if body is None else json.dumps(body)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content.encode())}"]
    return "\r\n".join([*lines, "", content])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Something to measure: requests that are sent in turn to a port, each answered with this status, and whom they keep busy."""

    port: int
    requests: Sequence[str]
    status: int
    processes: Mapping[str, psutil.Process]


@dataclass(slots=True, kw_only=True)
class Measured:
    """The rounds of one call: replies a second, seconds of each reply, and what one reply takes of the processors, by process."""

    rates: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    processor_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Load:
    """The load process, as its owner speaks to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Speaks over its pipes."""
        self._process = process

    async def order(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Has it do something; its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": name, **arguments}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            msg = "the load process ended; its error is above"
            raise RuntimeError(msg)
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def measure(self, call: Call, seconds: float, into: Measured | None = None) -> None:
        """One round of a call. Without `into` nothing is kept of it; else it begins warm."""
        if into is not None:
            await self.measure(call, WARM_S)
        before = {name: _processor_s(process) for name, process in call.processes.items()}
        answer = await self.order(
            "rate", port=call.port, requests=list(call.requests), callers=_CALLERS, seconds=seconds, status=call.status
        )
        if into is not None:
            into.rates.append(len(answer["took"]) / answer["elapsed_s"])
            into.took += answer["took"]
            into.processor_s["load"].append(answer["processor_s"] / len(answer["took"]))
            for name, process in call.processes.items():
                into.processor_s[name].append((_processor_s(process) - before[name]) / len(answer["took"]))


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@contextlib.asynccontextmanager
async def _load() -> AsyncIterator[Load]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.http_load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # An answer is one line, with the seconds of every reply in it.
        limit=256 * _MIB,
    )
    try:
        yield Load(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.contextmanager
def _serving(module: str, port: int, path: str, *arguments: str, environment: Mapping[str, str], log: Path) -> Iterator[psutil.Process]:
    """A process that answers this path on this port, as long as the block lives."""
    command = [sys.executable, "-m", module, *arguments]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=dict(environment)) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}{path}", process, log)
            yield psutil.Process(process.pid)
        finally:
            end_process(process)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_s = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=2.0)
            return
        if process.poll() is not None or time.monotonic() > ends_s:
            msg = f"{url} is not answered; the process said:\n{log.read_text(errors='replace')[-2000:]}"
            raise RuntimeError(msg)
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(slots=True, kw_only=True)
class Rig:
    """Everything that runs.

    Attributes:
        watched: tasks that wait, to be watched.
        polled: others, as new as those that are polled in production, where a thousand acceptances take hours: of the newest ones admission
            has the events in memory.
    """

    load: Load
    bare: psutil.Process
    bridge: psutil.Process
    admission: psutil.Process
    bridge_port: int
    bare_port: int
    cookie: str
    watched: Sequence[str]
    polled: Sequence[str]

    def calls(self) -> dict[str, Call]:
        """What is measured, by name."""
        key, session = {"X-API-Key": _KEY}, {"Cookie": self.cookie}
        bodies = {name: [request_text("POST", "/generate", headers, _BODY)] for name, headers in (("key", key), ("session", session))}
        polls = {
            name: [request_text("GET", f"/status/{task_id}", headers) for task_id in self.polled]
            for name, headers in (("key", key), ("session", session))
        }
        ours = {"bridge": self.bridge, "admission": self.admission}
        return {
            "bare": Call(port=self.bare_port, requests=bodies["key"], status=202, processes={"bare": self.bare}),
            **{f"generate_{name}": Call(port=self.bridge_port, requests=one, status=202, processes=ours) for name, one in bodies.items()},
            **{f"status_{name}": Call(port=self.bridge_port, requests=one, status=200, processes=ours) for name, one in polls.items()},
        }

    async def renew_tasks(self) -> None:
        """Cancels the tasks to be polled and submits as many new ones."""
        async with _client(self.bridge_port) as http:
            for task_id in self.polled:
                (await http.post(f"/cancel/{task_id}")).raise_for_status()
            self.polled = await _submit(http, _QUEUED)

    def rss_bytes(self) -> tuple[int, int]:
        """Memory of bridge and admission."""
        return self.bridge.memory_info().rss, self.admission.memory_info().rss


@contextlib.asynccontextmanager
async def _rig(folder: Path) -> AsyncIterator[Rig]:
    """All processes, with queued tasks and a session."""
    async with contextlib.AsyncExitStack() as stack:
        port, admission = stack.enter_context(server_process("admission", folder / "admission"))
        channel = await stack.enter_async_context(open_channel(port))
        for model in ("anisora", "phr00t"):
            await stack.enter_async_context(stub_lane(channel, model, busy=True))
        bridge_port, bare_port = _free_port(), _free_port()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WARMLANE_")} | {"GRPC_VERBOSITY": "NONE"}
        settings = {
            "WARMLANE_HTTP_BIND": f"127.0.0.1:{bridge_port}",
            "WARMLANE_ADMISSION_ADDRESS": f"127.0.0.1:{port}",
            "WARMLANE_OBJECT_STORE_URL": (folder / "admission" / "objects").as_uri(),
            "WARMLANE_METRICS_BIND": "127.0.0.1:0",
            "WARMLANE_API_KEY": _KEY,
            "WARMLANE_GENERATIONS_PER_MINUTE": "0",
            "WARMLANE_COOKIE_SECURE": "false",
        }
        bridge = stack.enter_context(
            _serving("http_bridge", bridge_port, "/health", environment=clean | settings, log=folder / "bridge.log")
        )
        bare = stack.enter_context(
            _serving("benchmarks.bare_http", bare_port, "/docs", str(bare_port), environment=clean, log=folder / "bare.log")
        )
        cookie, task_ids = await _prepare(bridge_port)
        yield Rig(
            load=await stack.enter_async_context(_load()),
            bare=bare,
            bridge=bridge,
            admission=admission,
            bridge_port=bridge_port,
            bare_port=bare_port,
            cookie=cookie,
            watched=task_ids[:_QUEUED],
            polled=task_ids[_QUEUED:],
        )


async def _prepare(port: int) -> tuple[str, list[str]]:
    """A session's cookie and the ids of tasks that wait in a queue of their own."""
    async with _client(port) as http:
        opened = (await http.post("/auth/session")).raise_for_status()
        # The lane takes the first one.
        task_ids = await _submit(http, 2 * _QUEUED + 1)
    return opened.headers["Set-Cookie"].partition(";")[0], task_ids[1:]


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": _KEY}, timeout=30)


async def _submit(http: httpx.AsyncClient, count: int) -> list[str]:
    body = {name: value for name, value in _BODY.items() if name != "motion_score"} | {"model": "phr00t"}
    replies = [(await http.post("/generate", json=body)).raise_for_status() for _ in range(count)]
    return [reply.json()["task_id"] for reply in replies]


async def _rounds(rig: Rig, names: Sequence[str], rounds: int, seconds: float) -> dict[str, Measured]:
    """Interleaved, so that what else the machine does falls on all alike."""
    measured = defaultdict[str, Measured](Measured)
    for name in names:
        await rig.load.measure(rig.calls()[name], 0.5)
    for _ in range(rounds):
        for name in names:
            if name.startswith("status"):
                await rig.renew_tasks()
            await rig.load.measure(rig.calls()[name], seconds, measured[name])
    return measured


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


async def _speed(rig: Rig, rounds: int, seconds: float) -> Figures:
    names = ["bare", "generate_key", "generate_session", "status_key", "status_session"]
    measured = await _rounds(rig, names, rounds, seconds)
    bare = measured["bare"]
    figures: Figures = {"bare_spread_percent": 100 * (max(bare.rates) - min(bare.rates)) / statistics.median(bare.rates)}
    for name in names:
        one = measured[name]
        figures[f"{name}_per_s"] = statistics.median(one.rates)
        figures[f"{name}_p50_ms"] = statistics.median(one.took) * 1000
        figures[f"{name}_p99_ms"] = statistics.quantiles(one.took, n=100)[98] * 1000
        # All run on the same cores.
        for process, seconds_each in one.processor_s.items():
            figures[f"{name}_processor_{process}_us"] = statistics.median(seconds_each) * 1_000_000
        if name != "bare":
            figures[f"{name}_to_bare"] = _ratio(one.rates, bare.rates)
    return figures


async def _streams(rig: Rig, rounds: int, seconds: float) -> Figures:
    names = ["generate_key", "status_key", "status_session"]
    slower = defaultdict[str, list[float]](list)
    grown: list[tuple[float, float]] = []
    for number in range(rounds):
        closed = await _rounds(rig, names, 1, seconds)
        requests = [request_text("GET", f"/events/{task_id}", {"X-API-Key": _KEY}) for task_id in rig.watched]
        before = rig.rss_bytes()
        await rig.load.order("open", port=rig.bridge_port, requests=requests, count=_STREAMS)
        after = rig.rss_bytes()
        if number == 0:
            # Later rounds find the memory of the first one.
            grown.append(((after[0] - before[0]) / _MIB, (after[1] - before[1]) / _MIB))
        opened = await _rounds(rig, names, 1, seconds)
        assert (await rig.load.order("count"))["open"] == _STREAMS
        await rig.load.order("close")
        await asyncio.sleep(0.5)
        for name in names:
            slower[name].append(1 - opened[name].rates[0] / closed[name].rates[0])
    figures: Figures = {"streams": _STREAMS, "streams_bridge_mib": grown[0][0], "streams_admission_mib": grown[0][1]}
    figures["streams_mib"] = sum(grown[0])
    return figures | {f"{name}_slower_with_streams_percent": 100 * statistics.median(slower[name]) for name in names}


async def measure(folder: Path, rounds: int, seconds: float, parts: frozenset[str]) -> Figures:
    """All figures of these parts; each round of each call lasts so long."""
    figures: Figures = {"load_average_before": os.getloadavg()[0]}
    async with _rig(folder) as rig:
        if "streams" in parts:
            # First: memory that acceptances took before would hide what the streams take.
            figures |= await _streams(rig, rounds, seconds)
        if "speed" in parts:
            figures |= await _speed(rig, rounds, seconds)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round of each call")
    parser.add_argument("--part", action="append", choices=_PARTS, help="only this; may be repeated")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="warmlane-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), options.rounds, options.seconds, frozenset(options.part or _PARTS)))
    for name, value in figures.items():
        print(f"{name:44} {value:10.3f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
