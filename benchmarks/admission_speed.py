"""`python -m benchmarks.admission_speed`: what durability, dispatch and overload cost, as ratios measured in one run on this machine.

* Durable acceptance over gRPC, with 64 requests in flight and with one, against a no-op grpc.aio unary server and a bare fsync: as a client
  in Python sees it (`acceptance`), which takes half a millisecond of each call for itself, and as h2load does, a client in C (`answers`).
  And a server that does nothing but one fsync before each answer: less than that no durable answer takes with one in flight.
* Submit to done of a job that takes no time: SubmitTask, lease, result, WatchTask, with a stub lane that answers each lease at once.
* What counting for `/metrics` takes of it, in throughput and in processor time: pairs of measurements with
  metrics on and off, one right after the other. The same (`watched`) of metrics, log lines and traces together, which may take 10 %.
* Acceptances while 2,000 requests a second are refused with `queue_overloaded`.

Each server is a process of its own; the load comes from this one, so two cores are busy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import grpc.aio
import psutil
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import admission_service_pb2_grpc as rpc
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1 import operator_service_pb2_grpc as operator_rpc
from warmlane.generation.v1 import generation_pb2 as generation

from benchmarks import h2load
from benchmarks.stub_lane import stub_lane
from runtime.rpc import create_channel

_ANISORA, _PHR00T = "anisora", "phr00t"
_CALL_S = 30.0
_STOP_S = 10.0
_FSYNCS = 500
_REFUSALS_PER_S = 2_000
_REFUSALS_AT_ONCE = 32
_ACCEPTANCES_PER_S = 50
_PAIRS = 20
_ROUNDS = 10
# What watching may take of acceptance throughput.
_BOUND_PERCENT = 10.0
WARM_S = 0.3
"""Before each round of a measurement that alternates, not counted. The memory of a process that idles while another is measured grows cold:
on a virtual machine whose host watches its pages, the first touch of what lay still for 1.5 s took 30 times as long as the next one
(2 ms of plain Python took 80 ms), and acceptances began with a tenth of a second of that."""

# Of the spans: a collector that is busy may leave some to the bound of what is kept.
_MOST = 0.9


Figures = dict[str, float]


@contextlib.contextmanager
def _server(kind: str, folder: Path) -> Iterator[int]:
    """The port of a server that lives as long as the block."""
    with server_process(kind, folder) as (port, _):
        yield port


@contextlib.contextmanager
def server_process(kind: str, folder: Path, more: Mapping[str, str] | None = None) -> Iterator[tuple[int, psutil.Process]]:
    """The port and the process of a server that lives as long as the block; `more`: of its environment."""
    folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.admission_process", kind, str(folder)]
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE", **(more or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), psutil.Process(process.pid)
        finally:
            end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Ends it, by force if it does not go by itself."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        print(f"process {process.pid} did not end within {_STOP_S:.0f} s and is killed", file=sys.stderr)
        process.kill()
        process.wait(_CALL_S)


@contextlib.asynccontextmanager
async def open_channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server on this machine, once it answers."""
    channel = create_channel(f"127.0.0.1:{port}")
    try:
        await channel.channel_ready()
        yield channel
    finally:
        await channel.close()


def _request(model: str = _ANISORA, *, keyed: bool = False, is_first: bool = False) -> pb.SubmitTaskRequest:
    """`keyed`: with an idempotency key; `is_first`: and said to be sent for the first time, as the bridge and the command line do."""
    wanted = generation.GenerationRequest(model=model, mode="t2v", prompt="a paper boat on a quiet pond " * 8)
    return pb.SubmitTaskRequest(request=wanted, owner="bench", request_id=uuid4().hex if keyed else "", abandon=is_first)


async def _rate(call: Callable[[], Awaitable[object]], in_flight: int, seconds: float) -> tuple[float, list[float]]:
    """Calls a second and the seconds of each, with so many in flight."""
    took: list[float] = []
    until_s = time.perf_counter() + seconds

    async def caller() -> None:
        while (started_s := time.perf_counter()) < until_s:
            await call()
            took.append(time.perf_counter() - started_s)

    started_s = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return len(took) / (time.perf_counter() - started_s), took


def _fsync_s(folder: Path) -> float:
    """Median seconds of an append of 4 KiB (one page of the write-ahead log) and its fsync, on the disk of the database."""
    took = []
    descriptor = os.open(folder / "fsync", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(_FSYNCS):
            started_s = time.perf_counter()
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
            took.append(time.perf_counter() - started_s)
    finally:
        os.close(descriptor)
    return statistics.median(took)


async def _acceptance(folder: Path, seconds: float) -> Figures:
    figures: Figures = {"fsync_ms": _fsync_s(folder) * 1000}
    async with contextlib.AsyncExitStack() as stack:
        stubs = {}
        for kind in ("noop", "noop-fsync", "noop-tuned", "admission"):
            port = stack.enter_context(_server(kind, folder / kind))
            channel = await stack.enter_async_context(open_channel(port))
            stubs[kind] = rpc.AdmissionServiceStub(channel)
        await stack.enter_async_context(stub_lane(channel, _ANISORA, busy=True))
        noop, synced, tuned, admission = stubs.values()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "noop": lambda: noop.SubmitTask(_request(keyed=True), timeout=_CALL_S),
            "noop_fsync": lambda: synced.SubmitTask(_request(keyed=True), timeout=_CALL_S),
            "noop_tuned": lambda: tuned.SubmitTask(_request(keyed=True), timeout=_CALL_S),
            "accept": lambda: admission.SubmitTask(_request(), timeout=_CALL_S),
            "accept_keyed": lambda: admission.SubmitTask(_request(keyed=True), timeout=_CALL_S),
        }
        for in_flight in (64, 1):
            for call in calls.values():
                await _rate(call, in_flight, 0.5)
            # Interleaved, so that what else the machine does falls on all alike.
            rates: dict[str, list[float]] = {name: [] for name in calls}
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(_ROUNDS):
                for name, call in calls.items():
                    await _rate(call, in_flight, WARM_S)
                    rate, took = await _rate(call, in_flight, seconds / _ROUNDS)
                    rates[name].append(rate)
                    times[name] += took
            for name in calls:
                figures[f"{name}_{in_flight}_per_s"] = statistics.median(rates[name])
                figures[f"{name}_{in_flight}_p50_ms"] = statistics.median(times[name]) * 1000
                figures[f"{name}_{in_flight}_p99_ms"] = statistics.quantiles(times[name], n=100)[98] * 1000
    for name in ("accept", "accept_keyed"):
        figures[f"{name}_64_to_noop"] = figures[f"{name}_64_per_s"] / figures["noop_64_per_s"]
        figures[f"{name}_64_to_noop_tuned"] = figures[f"{name}_64_per_s"] / figures["noop_tuned_64_per_s"]
        figures[f"{name}_1_over_fsync_ms"] = figures[f"{name}_1_p50_ms"] - figures["fsync_ms"]
        figures[f"{name}_1_over_noop_fsync_ms"] = figures[f"{name}_1_p50_ms"] - figures["noop_fsync_1_p50_ms"]
    figures["noop_fsync_1_over_fsync_ms"] = figures["noop_fsync_1_p50_ms"] - figures["fsync_ms"]
    return figures


async def _metrics(folder: Path, seconds: float) -> Figures:
    """Acceptances with metrics off and on."""
    return await _paired(folder, seconds, "metrics", watched="admission", unwatched="admission-uncounted")


async def _watched(folder: Path, seconds: float) -> Figures:
    """Acceptances with metrics, log lines and traces, the spans sent to a collector that takes them, and with none of it."""
    with _server("collector", folder / "collector") as port:
        environment = {"WARMLANE_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
        figures = await _paired(
            folder, seconds, "watched", watched="admission-watched", unwatched="admission-unwatched", environment=environment
        )
        # The process has ended, and sent what it had.
        figures["watched_bound_percent"] = _BOUND_PERCENT
        figures["watched_spans"] = await asyncio.to_thread(_spans_taken, port)
    if figures["watched_spans"] < _MOST * figures["watched_acceptances"]:
        msg = f"{figures['watched_spans']:.0f} spans of {figures['watched_acceptances']:.0f} acceptances arrived: traces were not on"
        raise RuntimeError(msg)
    return figures


def _spans_taken(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_CALL_S)
    try:
        connection.request("GET", "/")
        return int(connection.getresponse().read())
    finally:
        connection.close()


async def _paired(
    folder: Path, seconds: float, name: str, *, watched: str, unwatched: str, environment: Mapping[str, str] | None = None
) -> Figures:
    """Acceptances by both kinds of server, pair by pair, so that what else the machine does falls on both; which is first changes."""
    async with contextlib.AsyncExitStack() as stack:
        servers: dict[str, tuple[rpc.AdmissionServiceAsyncStub, psutil.Process]] = {}
        for kind in (watched, unwatched):
            port, process = stack.enter_context(server_process(kind, folder / f"{name}-{kind}", environment))
            channel = await stack.enter_async_context(open_channel(port))
            await stack.enter_async_context(stub_lane(channel, _ANISORA, busy=True))
            servers[kind] = rpc.AdmissionServiceStub(channel), process
            await _costs(*servers[kind], 0.5)
        slower, dearer, acceptances = [], [], 0
        for pair in range(_PAIRS):
            costs = {kind: await _costs(*servers[kind], seconds / 8) for kind in sorted(servers, reverse=pair % 2 == 0)}
            with_it, without = costs[watched], costs[unwatched]
            slower.append(1 - with_it.per_s / without.per_s)
            dearer.append(with_it.processor_s / without.processor_s - 1)
            acceptances += with_it.acceptances
    return {
        f"{name}_cost_percent": 100 * statistics.median(slower),
        f"{name}_processor_percent": 100 * statistics.median(dearer),
        f"{name}_acceptances": acceptances,
    }


class _Costs(NamedTuple):
    """Acceptances a second, the server's processor seconds for each, and how many there were with those that warmed it."""

    per_s: float
    processor_s: float
    acceptances: int


async def _costs(stub: rpc.AdmissionServiceAsyncStub, process: psutil.Process, seconds: float) -> _Costs:
    """Of a server, with 64 in flight."""

    def accept() -> Awaitable[object]:
        return stub.SubmitTask(_request(), timeout=_CALL_S)

    _, warming = await _rate(accept, 64, WARM_S)
    before = process.cpu_times()
    rate, took = await _rate(accept, 64, seconds)
    after = process.cpu_times()
    return _Costs(rate, (after.user + after.system - before.user - before.system) / len(took), len(warming) + len(took))


async def _submit_to_done(folder: Path, seconds: float) -> Figures:
    with _server("admission", folder / "done") as port:
        async with open_channel(port) as channel, stub_lane(channel, _ANISORA, busy=False):
            admission = rpc.AdmissionServiceStub(channel)

            async def job() -> None:
                task = (await admission.SubmitTask(_request(keyed=True, is_first=True), timeout=_CALL_S)).task
                watching = admission.WatchTask(pb.WatchTaskRequest(task_id=task.task_id), timeout=_CALL_S)
                async for change in watching:
                    task = change.task
                assert task.HasField("result")

            await _rate(job, 1, 0.5)
            rate, took = await _rate(job, 1, seconds)
    return {
        "submit_to_done_p50_ms": statistics.median(took) * 1000,
        "submit_to_done_p99_ms": statistics.quantiles(took, n=100)[98] * 1000,
        "submit_to_done_per_s": rate,
    }


async def _paced(per_s: float, seconds: float, call: Callable[[], Awaitable[object]]) -> list[float]:
    """Starts so many calls a second, whether the earlier ones are answered or not; the seconds of each, from when it was due."""
    took: list[float] = []
    running: set[asyncio.Task[None]] = set()
    started_s = time.perf_counter()

    async def one(due_s: float) -> None:
        await call()
        took.append(time.perf_counter() - due_s)

    for number in count():
        due_s = started_s + number / per_s
        if due_s > started_s + seconds:
            break
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        task = asyncio.create_task(one(due_s))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return took


async def _answers(folder: Path, seconds: float) -> Figures:
    """As `_acceptance`, by h2load."""
    figures: Figures = {}
    async with contextlib.AsyncExitStack() as stack:
        ports = {kind: stack.enter_context(_server(kind, folder / f"answers-{kind}")) for kind in ("noop", "noop-fsync", "admission")}
        channel = await stack.enter_async_context(open_channel(ports["admission"]))
        await stack.enter_async_context(stub_lane(channel, _ANISORA, busy=True))
        operator, request, asked = operator_rpc.OperatorServiceStub(channel), _request(), 0
        fsyncs: list[float] = []
        for in_flight, per_s in ((64, 2_000), (1, 500)):
            rates: dict[str, list[float]] = {kind: [] for kind in ports}
            times: dict[str, list[float]] = {kind: [] for kind in ports}
            for _ in range(_ROUNDS):
                fsyncs.append(_fsync_s(folder))
                for kind, port in ports.items():
                    await h2load.answers(port, request, folder, in_flight=in_flight, amount=int(per_s * WARM_S))
                    amount = int(per_s * seconds / _ROUNDS)
                    rate, took = await h2load.answers(port, request, folder, in_flight=in_flight, amount=amount)
                    rates[kind].append(rate)
                    times[kind] += took
                asked += int(per_s * WARM_S) + amount
            for kind in ports:
                figures[f"answers_{kind}_{in_flight}_per_s"] = statistics.median(rates[kind])
                figures[f"answers_{kind}_{in_flight}_p50_ms"] = statistics.median(times[kind]) * 1000
                figures[f"answers_{kind}_{in_flight}_p99_ms"] = statistics.quantiles(times[kind], n=100)[98] * 1000
        counters = (await operator.GetSnapshot(operators.GetSnapshotRequest(), timeout=_CALL_S)).counters
        if counters.accepted != asked:
            msg = f"{counters.accepted} of {asked} requests were accepted: what was measured is something else"
            raise RuntimeError(msg)
    figures["answers_fsync_ms"] = statistics.median(fsyncs) * 1000
    figures["answers_64_to_noop"] = figures["answers_admission_64_per_s"] / figures["answers_noop_64_per_s"]
    for kind in ("noop-fsync", "admission"):
        figures[f"answers_{kind}_1_over_fsync_ms"] = figures[f"answers_{kind}_1_p50_ms"] - figures["answers_fsync_ms"]
    return figures


async def _refused(operator: operator_rpc.OperatorServiceAsyncStub) -> int:
    reply: operators.GetSnapshotResponse = await operator.GetSnapshot(operators.GetSnapshotRequest(), timeout=_CALL_S)
    return reply.counters.overloaded_depth


async def _overload(folder: Path, seconds: float) -> Figures:
    with _server("admission", folder / "overload") as port:
        async with open_channel(port) as channel, open_channel(port) as other, stub_lane(channel, _ANISORA, busy=True):
            clients, operator = rpc.AdmissionServiceStub(channel), operator_rpc.OperatorServiceStub(channel)
            waiting = rpc.AdmissionServiceStub(other)
            held = [asyncio.ensure_future(waiting.SubmitTask(_request(_PHR00T), timeout=60)) for _ in range(25)]
            await asyncio.sleep(0.5)

            async def acceptance() -> None:
                await clients.SubmitTask(_request(), timeout=_CALL_S)

            await _paced(_ACCEPTANCES_PER_S, 0.5, acceptance)
            alone = await _paced(_ACCEPTANCES_PER_S, seconds, acceptance)
            before, started_s = await _refused(operator), time.perf_counter()
            async with h2load.flood(port, _request(_PHR00T), folder, per_s=_REFUSALS_PER_S, in_flight=_REFUSALS_AT_ONCE, seconds=seconds):
                accepted = await _paced(_ACCEPTANCES_PER_S, seconds, acceptance)
            refused, lasted_s = await _refused(operator) - before, time.perf_counter() - started_s
            for call in held:
                call.cancel()
            await asyncio.gather(*held, return_exceptions=True)
    return {
        "refusals_per_s": refused / lasted_s,
        "acceptance_alone_p99_ms": statistics.quantiles(alone, n=100)[98] * 1000,
        "acceptance_under_refusals_p99_ms": statistics.quantiles(accepted, n=100)[98] * 1000,
        "acceptance_under_refusals_p50_ms": statistics.median(accepted) * 1000,
    }


_PARTS: Mapping[str, Callable[[Path, float], Awaitable[Figures]]] = {
    "acceptance": _acceptance,
    "answers": _answers,
    "metrics": _metrics,
    "watched": _watched,
    "done": _submit_to_done,
    "overload": _overload,
}


_BY_H2LOAD = frozenset({"answers", "overload"})


async def measure(folder: Path, seconds: float, parts: frozenset[str]) -> Figures:
    """All figures of these parts; each measurement lasts about so long."""
    figures: Figures = {}
    for name, part in _PARTS.items():
        if name in parts:
            figures |= await part(folder, seconds)
    return figures


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--part", action="append", choices=_PARTS, help="only this; may be repeated")
    arguments = parser.parse_args()
    parts = frozenset(arguments.part or _PARTS)
    if parts & _BY_H2LOAD and not h2load.is_here():
        print(f"{' and '.join(sorted(parts & _BY_H2LOAD))} left out: h2load is missing (Debian: nghttp2-client).", file=sys.stderr)
        parts -= _BY_H2LOAD
    with tempfile.TemporaryDirectory(prefix="warmlane-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), arguments.seconds, parts))
    for name, value in figures.items():
        print(f"{name:36} {value:10.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
