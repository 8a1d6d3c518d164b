"""`warmlane smoke` as people and scripts run it: a good deployment, one without keys, an overload, an interrupt, https."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner, Result

from command_line.__main__ import app
from command_line.failures import CommandError
from command_line.smoke.deployment import deployment
from command_line.smoke.outcome import Outcome
from command_line.smoke.overload import BURST
from command_line.smoke.visit import PROMPT
from tests.harness.breaking import Breaker, Exchange
from tests.harness.bridge import KEY, WITH_KEY
from tests.harness.contract_bridge import ADMIN_KEY, ContractBridge, contract_bridge
from tests.harness.http import fetch
from tests.harness.smoking import smoke, smoked
from tests.harness.threaded_http import threaded_http

_KEYS = {"WARMLANE_API_KEY": KEY, "WARMLANE_ADMIN_KEY": ADMIN_KEY}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractBridge]:
    """A good bridge."""
    with contract_bridge(tmp_path_factory.mktemp("smoke")) as running:
        yield running


def _run(*words: str, **environment: str) -> Result:
    result = CliRunner().invoke(app, ["smoke", *words], env={"WARMLANE_API_KEY": None, "WARMLANE_ADMIN_KEY": None, **environment})
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def _tasks(url: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = fetch("GET", f"{url}/gallery?per_page=100", headers=WITH_KEY).json()["items"]
    return [item for item in items if item["prompt"] == PROMPT]


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_every_check_is_ok_and_nothing_stays_when_the_deployment_is_good(bridge: ContractBridge, prefix: str) -> None:
    result = _run(f"{bridge.url}{prefix}/", "--json", "--rounds", "2", **_KEYS)
    document = json.loads(result.stdout)
    assert (result.exit_code, document["ok"], document["failed"], document["skipped"]) == (0, True, 0, 0), document
    assert document["url"] == bridge.url + prefix
    names = [check["name"] for check in document["checks"]]
    rendered = [name.removeprefix("render ") for name in names if name.startswith("render ")]
    assert rendered == ["1.anisora", "1.phr00t", "2.anisora", "2.phr00t"]
    assert names[-1] == "cleanup"
    assert _tasks(bridge.url) == []
    assert KEY not in result.output
    assert ADMIN_KEY not in result.output


def test_checks_that_need_a_key_are_skipped_when_none_is_given(bridge: ContractBridge) -> None:
    result = _run(bridge.url, "--rounds", "1")
    assert result.exit_code == 0, result.output
    skipped = [line for line in result.stdout.splitlines() if line.startswith("skipped")]
    assert [line.split("  ")[0].removeprefix("skipped").strip() for line in skipped] == [
        "API key",
        "admin session",
        "diagnostics",
        "audit log",
    ]
    assert all("WARMLANE_" in line for line in skipped)
    assert result.stdout.rstrip().endswith(" ok, 4 skipped.")


def test_exit_code_is_one_and_the_advice_is_shown_when_a_key_is_wrong(bridge: ContractBridge) -> None:
    result = _run(bridge.url, "--rounds", "1", WARMLANE_API_KEY="not-the-right-one-0123")
    assert result.exit_code == 1
    assert "failed  API key" in result.stdout
    assert "-> Give the key that the bridge has" in result.stdout
    assert "not-the-right-one" not in result.output


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["ftp://host"], "URL"),
        (["host:8080"], "URL"),
        (["http://"], "URL"),
        (["http://host:99999999"], "URL"),
        (["http://user:secret@host"], "user, password"),
        (["http://host/?key=1"], "query"),
        (["http://host", "--ca", "no-such-file.pem"], "--ca no-such-file.pem"),
        (["http://host", "--api-key", "schlüssel"], "--api-key"),
    ],
)
def test_exit_code_is_two_when_what_was_asked_is_wrong(words: list[str], what: str) -> None:
    with pytest.raises(CommandError, match=what) as raised:
        _run(*words)
    assert raised.value.exit_code == 2
    assert "secret" not in raised.value.message


def test_overload_is_shown_with_its_facts_and_leaves_nothing_when_no_lane_takes_the_load(tmp_path: Path) -> None:
    breaker = Breaker()
    with contract_bridge(tmp_path, models=(), breaker=breaker) as bridge:
        result = smoked(bridge.url, ["overload"])["overload"]
        assert result.outcome is Outcome.OK, result
        assert result.detail.startswith("503 by depth at depth 25, Retry-After ")
        assert breaker.seen.count("POST /generate") <= BURST
        ends_s = time.monotonic() + 10
        while _depth(bridge) > 0:
            assert time.monotonic() < ends_s, "held places were not given back"
            time.sleep(0.02)


def _depth(bridge: ContractBridge) -> int:
    health = fetch("GET", f"{bridge.url}/admin/health", headers={"X-Admin-Key": ADMIN_KEY}).json()
    return int(health["diagnostics"]["queue_depth"])


def _facts(**facts: object) -> dict[str, Any]:
    metadata = {"cause": "depth", "depth": 25, "max_depth": 25, "waited_seconds": 0.0, "max_wait_seconds": 30.0, **facts}
    return {"detail": {"code": "queue_overloaded", "detail": "Full.", "user_action": "Wait.", "metadata": metadata}}


_OVERLOADS: list[tuple[str, int, dict[str, Any], str | None, Outcome, str]] = [
    ("good", 503, _facts(), "5", Outcome.OK, "503 by depth"),
    ("by wait", 503, _facts(cause="wait"), "5", Outcome.OK, "503 by wait"),
    ("no cause", 503, _facts(cause=None), "5", Outcome.FAILED, "lacks cause"),
    ("no depth", 503, _facts(depth="25"), "5", Outcome.FAILED, "lacks depth"),
    ("other limits", 503, _facts(max_depth=50), "5", Outcome.FAILED, "other limits"),
    ("no Retry-After", 503, _facts(), None, Outcome.FAILED, "Retry-After"),
    ("a date for Retry-After", 503, _facts(), "Thu, 01 Jan 2026 00:00:00 GMT", Outcome.FAILED, "Retry-After"),
    ("another status", 429, _facts(), "5", Outcome.FAILED, "answered 429"),
    ("another code", 503, {"detail": {**_facts()["detail"], "code": "service_unavailable"}}, "5", Outcome.FAILED, "service_unavailable"),
    ("limit of rates", 429, {"detail": {**_facts()["detail"], "code": "rate_limited"}}, "5", Outcome.SKIPPED, "give the API key"),
]


@pytest.mark.parametrize(
    ("status", "document", "retry_after", "outcome", "told"), [pytest.param(*row[1:], id=row[0]) for row in _OVERLOADS]
)
def test_overload_is_judged_by_its_facts(
    status: int, document: dict[str, Any], retry_after: str | None, outcome: Outcome, told: str
) -> None:
    async def refuse(_request: Request) -> JSONResponse:
        return JSONResponse(document, status_code=status, headers={"Retry-After": retry_after} if retry_after else None)

    with threaded_http(Starlette(routes=[Route("/generate", refuse, methods=["POST"])])) as url:
        result = smoked(url, ["overload"])["overload"]
    assert (result.outcome, told in result.detail) == (outcome, True), result


@pytest.mark.long
def test_overload_says_so_when_the_deployment_is_too_fast_to_be_filled(bridge: ContractBridge) -> None:
    result = smoked(bridge.url, ["overload"])["overload"]
    assert (result.outcome, "renders faster than clips can be sent" in result.detail) == (Outcome.SKIPPED, True), result
    assert _tasks(bridge.url) == []


def test_overload_fails_when_the_queue_takes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer at once than a queue takes: this queue is good, and only seems to take everything and begin nothing.
    monkeypatch.setattr("command_line.smoke.overload.BURST", 20)

    def never_begun(exchange: Exchange) -> Exchange:
        is_status = exchange.path.startswith("/status/") and exchange.status == 200
        return exchange.with_document({**exchange.document(), "status": "pending"}) if is_status else exchange

    with contract_bridge(tmp_path, breaker=Breaker(rule=never_begun)) as bridge:
        result = smoked(bridge.url, ["overload"])["overload"]
    assert (result.outcome, "no request is refused" in result.detail) == (Outcome.FAILED, True), result


@pytest.mark.parametrize("where", ["/status/", "/generate"])
async def test_what_was_made_is_deleted_when_the_run_is_interrupted(tmp_path: Path, where: str) -> None:
    loop, reached = asyncio.get_running_loop(), asyncio.Event()

    def never_done(exchange: Exchange) -> Exchange:
        if where in exchange.path and exchange.status in (200, 202):
            loop.call_soon_threadsafe(reached.set)
            # An interrupt while the acceptance is on its way: the run must learn of it all the same.
            time.sleep(0.2 if where == "/generate" else 0)
            return exchange if where == "/generate" else exchange.with_document({**exchange.document(), "status": "processing"})
        return exchange

    breaker = Breaker(rule=never_done)
    with contract_bridge(tmp_path, breaker=breaker) as bridge:
        run = asyncio.create_task(smoke(bridge.url, ["render 1.anisora"]))
        async with asyncio.timeout(20):
            await reached.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert any(line.startswith("DELETE /gallery/") for line in breaker.seen)
        breaker.rule = None
        assert await asyncio.to_thread(_tasks, bridge.url) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_exit_code_is_130_and_the_report_says_what_was_made_when_it_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    def never_done(exchange: Exchange) -> Exchange:
        is_status = exchange.path.startswith("/status/") and exchange.status == 200
        return exchange.with_document({**exchange.document(), "status": "processing", "progress": 100}) if is_status else exchange

    breaker = Breaker(rule=never_done)
    with contract_bridge(tmp_path, breaker=breaker) as bridge:
        process = subprocess.Popen(
            [sys.executable, "-m", "command_line", "smoke", bridge.url],
            env={**os.environ, **_KEYS},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            ends_s = time.monotonic() + 60
            while sum(line.startswith("GET /status/") for line in breaker.seen) < 3:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < ends_s
                time.sleep(0.05)
            process.send_signal(number)
            output, said = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
        breaker.rule = None
        assert process.returncode == 130, (output, said)
        assert "interrupted; nothing is left behind." in said
        assert "Traceback" not in said
        assert _tasks(bridge.url) == []


async def test_cookie_of_one_reply_is_not_sent_with_the_next_call() -> None:
    # The session of one check let the next one in, which is to see what happens without.
    async def answer(request: Request) -> JSONResponse:
        reply = JSONResponse({"cookies": dict(request.cookies)})
        reply.set_cookie("gg_session", "token")
        return reply

    with threaded_http(Starlette(routes=[Route("/", answer)])) as url:
        async with deployment(url, None) as found:
            told = [(await found.call("GET", "/", headers=headers)).document()["cookies"] for headers in ({}, {}, {"Cookie": "a=b"})]
    assert told == [{}, {}, {"a": "b"}]


def test_certificate_is_checked_and_a_private_authority_can_be_named(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)

    async def health(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "app": "warmlane", "version": "1"})

    served = Starlette(routes=[Route("/health", health)])
    with threaded_http(served, ssl_certfile=str(cert), ssl_keyfile=str(key)) as url:
        trusted = _run(url, "--ca", str(ca), "--json")
        untrusted = _run(url, "--json")
    first = json.loads(trusted.stdout)["checks"][0]
    assert (first["name"], first["outcome"]) == ("health", "ok")
    first = json.loads(untrusted.stdout)["checks"][0]
    assert (first["outcome"], "certificate" in first["detail"].lower()) == ("failed", True)
    assert untrusted.exit_code == 1
