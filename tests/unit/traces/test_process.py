"""The tracer of a process: silent and unimported while traces are off; what is written is sent, and a stop waits a bounded time."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runtime.traces import process
from runtime.traces.context import parse
from runtime.traces.process import WritingTracer, tracing
from runtime.traces.settings import TraceSettings
from tests.harness.collector import CollectorDouble
from tests.harness.credentials import Authority
from tests.unit.traces.spans import Kept, make_span

ROOT = Path(__file__).parents[3]
EVERY_PROCESS = "admission.process, http_bridge.app, http_bridge.client, runtime.lane.main, runtime.lane.child, command_line.__main__"


@pytest.fixture
def collector() -> Iterator[CollectorDouble]:
    """Listens."""
    with CollectorDouble() as double:
        yield double


def test_nothing_of_opentelemetry_is_imported_when_traces_are_off() -> None:
    # A process of its own: other tests here import it.
    program = f"""
import asyncio, sys
import {EVERY_PROCESS}
from runtime.traces.process import tracing
from runtime.traces.settings import TraceSettings
async def off():
    async with tracing(TraceSettings(), service="x") as tracer:
        assert not tracer.is_on
asyncio.run(off())
# FastAPI imports the interface by itself where somebody installed it; what has weight is the rest.
found = [name for name in sys.modules if name.startswith(("opentelemetry.proto", "opentelemetry.sdk", "opentelemetry.exporter"))]
assert found == [], found
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


async def test_every_span_arrives_when_the_process_ends_at_once(collector: CollectorDouble) -> None:
    async with tracing(TraceSettings(otlp_endpoint=collector.url), service="here") as tracer:
        for number in range(1, 301):
            tracer.write(make_span(number))
    assert sorted(span.name for span in collector.spans) == sorted(f"span {number}" for number in range(1, 301))
    assert {span.service for span in collector.spans} == {"here"}


async def test_spans_arrive_on_a_fresh_connection_when_the_kept_one_has_ended(collector: CollectorDouble) -> None:
    async with tracing(TraceSettings(otlp_endpoint=collector.url), service="here") as tracer:
        tracer.write(make_span(1))
        collector.until(lambda: len(collector.spans) == 1)
        collector.stop()
        collector.start()
        tracer.write(make_span(2))
    assert [span.name for span in collector.spans] == ["span 1", "span 2"]


async def test_a_stop_waits_no_longer_than_it_may_when_the_collector_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CLOSE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began_s = time.monotonic()
        async with tracing(TraceSettings(otlp_endpoint=endpoint), service="here") as tracer:
            tracer.write(make_span())
        # It would have answered never; the bound is a tenth of a second, and the machine may be busy.
        assert time.monotonic() - began_s < 2.0


@pytest.mark.parametrize("status", [400, 503])
async def test_nothing_is_held_up_when_the_collector_refuses(collector: CollectorDouble, status: int) -> None:
    collector.status = status
    async with tracing(TraceSettings(otlp_endpoint=collector.url), service="here") as tracer:
        tracer.write(make_span())
    assert collector.spans == []
    assert len(collector.headers) == 1


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_spans_are_sent_over_tls_only_when_the_collector_is_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trusted: bool
) -> None:
    known = Authority(tmp_path)
    issued = (known if is_trusted else Authority(tmp_path, "other")).issue("127.0.0.1")
    # As OpenSSL finds the CAs of a machine.
    monkeypatch.setenv("SSL_CERT_FILE", str(known.cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    with CollectorDouble(context) as collector, capture_logs() as lines:
        async with tracing(TraceSettings(otlp_endpoint=collector.url), service="here") as tracer:
            tracer.write(make_span())
    assert [span.name for span in collector.spans] == ["span 1"] * is_trusted
    assert [line["reason"] for line in lines if line["event"] == "traces_not_taken"] == ["SSLCertVerificationError"] * (not is_trusted)


def test_a_trace_is_sampled_by_its_share_when_it_begins_here() -> None:
    tracer = Kept(sample_ratio=0.25)
    begun = [tracer.begin(None) for _ in range(2000)]
    # The share of 2,000 tosses lies within six standard deviations, 0.25 +- 0.06, but once in a hundred million runs.
    assert 0.19 < sum(one.is_sampled for one in begun) / len(begun) < 0.31
    for context in begun:
        tracer.write(make_span()._replace(context=context))
    assert len(tracer.spans) == sum(one.is_sampled for one in begun)


@pytest.mark.parametrize(("ratio", "is_sampled"), [(0.0, False), (1.0, True)])
def test_all_or_none_are_sampled_when_the_share_says_so(ratio: float, is_sampled: bool) -> None:
    tracer = WritingTracer(lambda span: None, sample_ratio=ratio)
    assert {tracer.begin(None).is_sampled for _ in range(100)} == {is_sampled}


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_caller_s_decision_is_kept_when_it_brings_a_trace(flags: str) -> None:
    parent = parse(f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}", "vendor=opaque")
    assert parent is not None
    below = Kept(sample_ratio=0.5).begin(parent)
    assert (below.trace_id, below.is_sampled, below.state) == (parent.trace_id, parent.is_sampled, "vendor=opaque")
    assert below.span_id != parent.span_id
