"""`warmlane smoke` notices: for each of its checks, replies that are broken in one place make that check fail, and tell what to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from command_line.smoke.outcome import Outcome
from command_line.smoke.rules import fixed_parameters
from command_line.smoke.visit import PROMPT
from tests.harness.breaking import Breaker, Exchange, Rule
from tests.harness.bridge import KEY
from tests.harness.contract_bridge import ContractBridge, contract_bridge
from tests.harness.smoking import smoked

_RENDER = "render 1.anisora"
_BREAKER = Breaker()
# Checks that were seen to be ok together while nothing was broken.
_GOOD: set[tuple[str, ...]] = set()


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractBridge]:
    """A good bridge behind the breaker."""
    with contract_bridge(tmp_path_factory.mktemp("smoke"), breaker=_BREAKER) as running:
        yield running


def _when(pattern: str, change: Rule, *, status: int | None = None) -> Rule:
    """Changes replies to `METHOD /path` that match, and have this status."""

    def rule(exchange: Exchange) -> Exchange:
        is_meant = re.fullmatch(pattern, f"{exchange.method} {exchange.path}") and status in (None, exchange.status)
        return change(exchange) if is_meant else exchange

    return rule


def _set(path: str, value: Any) -> Rule:
    """Sets, in the JSON body, what stands at the path; `...` leaves it out."""

    def change(exchange: Exchange) -> Exchange:
        document = exchange.document()
        *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        node = document
        for part in parents:
            node = node[part]
        if value is ...:
            del node[last]
        else:
            node[last] = value
        return exchange.with_document(document)

    return change


def _answers(status: int, document: Any = None) -> Rule:
    return lambda exchange: (exchange if document is None else exchange.with_document(document)).with_status(status)


def _header(name: str, value: str | None) -> Rule:
    return lambda exchange: exchange.with_header(name, value)


def _body(change: Callable[[bytes], bytes]) -> Rule:
    return lambda exchange: exchange.with_body(change(exchange.body))


def _cookie(removed: str) -> Rule:
    def change(exchange: Exchange) -> Exchange:
        cookie = dict(exchange.headers)["set-cookie"]
        return exchange.with_header("set-cookie", re.sub(removed, "", cookie, flags=re.IGNORECASE))

    return change


def _html(exchange: Exchange) -> Exchange:
    return exchange.with_body(b"<html>404</html>").with_header("content-type", "text/html")


def _falling(exchange: Exchange) -> Exchange:
    """The status of a task that is rendered, with a progress that falls with every look."""
    _falling_from.append(len(_falling_from))
    changed = {**exchange.document(), "status": "processing", "stage": "inference", "progress": 90 - len(_falling_from)}
    return exchange.with_document(changed)


_falling_from: list[int] = []


def _each_item(name: str, value: Any) -> Rule:
    def change(exchange: Exchange) -> Exchange:
        for number in range(len(exchange.document()["items"])):
            exchange = _set(f"items/{number}/{name}", value)(exchange)
        return exchange

    return change


def _reversed_items(exchange: Exchange) -> Exchange:
    document = exchange.document()
    for number, item in enumerate(document["items"]):
        item["created_at"] = f"2026-01-01T00:00:0{number}Z"
    return exchange.with_document(document)


def _told(place: str) -> Rule:
    """With the key and a prompt somewhere in the JSON."""
    return _set(place, f"{PROMPT} {KEY}")


def _without_key(exchange: Exchange) -> bool:
    return not {"x-api-key", "x-admin-key", "cookie"} & set(exchange.sent)


def _open_to_all(exchange: Exchange) -> Exchange:
    return exchange.with_document({}).with_status(200) if _without_key(exchange) else exchange


def _repeats_the_key(exchange: Exchange) -> Exchange:
    if exchange.status != 403:
        return exchange
    return exchange.with_document({"detail": {**exchange.document()["detail"], "metadata": {"sent": exchange.sent.get("x-api-key")}}})


def _another_task(exchange: Exchange) -> Exchange:
    _numbers.append(len(_numbers))
    is_meant = (exchange.method, exchange.status) == ("POST", 202)
    return exchange.with_document({"task_id": f"{len(_numbers):032x}", "status": "pending"}) if is_meant else exchange


def _another_answer(exchange: Exchange) -> Exchange:
    _numbers.append(len(_numbers))
    is_meant = exchange.path.startswith("/cancel/")
    return exchange.with_document({**exchange.document(), "number": len(_numbers)}) if is_meant else exchange


_numbers: list[int] = []


def _quoting_the_key(exchange: Exchange) -> Exchange:
    detail = {"code": "forbidden", "detail": f"{exchange.sent['x-api-key']} is not right.", "user_action": "Go away."}
    return exchange.with_document({"detail": detail}).with_status(403)


_TASK = r"[0-9a-f]{32}"
_MODELS = "GET /models"
_STATUS = f"GET /status/{_TASK}"
_RESULT = f"GET /results/{_TASK}"
_PREVIEW = f"GET /preview/{_TASK}"
_EVENTS = f"GET /events/{_TASK}"
_HEALTH = "GET /admin/health"
_LOGS = "GET /admin/logs"
_TAKEN = {"task_id": "0" * 32, "status": "pending"}

# The check that must fail, what is broken, and the checks before it that it needs.
_BROKEN: list[tuple[str, str, Rule, tuple[str, ...]]] = [
    ("health", "another server", _when("GET /health", _set("app", "another")), ()),
    ("health", "not ok", _when("GET /health", _set("status", "starting")), ()),
    ("health", "a page", _when("GET /health", _html), ()),
    ("documentation", "a path is missing", _when("GET /openapi.json", _set("paths", {})), ()),
    ("no credential", "everyone reads", _when(_MODELS, _open_to_all), ()),
    ("no credential", "everyone generates", _when("POST /generate", _open_to_all), ()),
    ("no credential", "another code", _when("GET /gallery", _set("detail/code", "forbidden"), status=401), ()),
    ("wrong key", "is right", _when(_MODELS, _answers(200, {}), status=403), ()),
    ("wrong key", "is repeated", _repeats_the_key, ()),
    ("API key", "is repeated", _when(_MODELS, _quoting_the_key), ()),
    ("API key", "is refused", _when(_MODELS, _answers(403)), ()),
    ("session", "is not opened", _when("POST /auth/session", _answers(429)), ()),
    ("session", "has no end", _when("POST /auth/session", _set("expires_at", ...)), ()),
    ("session", "no cookie", _when("POST /auth/session", _header("set-cookie", None)), ()),
    ("session", "cookie for scripts", _when("POST /auth/session", _cookie("; *httponly")), ()),
    ("session", "cookie for one path", _when("POST /auth/session", _cookie("; *path=/")), ()),
    ("session", "is not active", _when("GET /auth/session", _set("active", False), status=200), ()),
    ("session", "opens nothing", _when(_MODELS, _answers(401)), ()),
    ("bad session", "missing one", _when("GET /auth/session", _set("detail/code", "unauthenticated"), status=401), ()),
    ("bad session", "made-up one is good", _when("GET /auth/session", _answers(200), status=401), ()),
    ("models", "one is missing", _when(_MODELS, _set("models/0/id", "wan")), ()),
    ("models", "modes", _when(_MODELS, _set("models/1/modes", ["t2v"])), ()),
    ("models", "fixed value", _when(_MODELS, _set("models/0/fixed_parameters/steps/value", 9)), ()),
    ("models", "a limit", _when(_MODELS, _set("models/0/parameters_schema/properties/fps/maximum", 30)), ()),
    ("models", "no schema", _when(_MODELS, _set("models/0/parameters_schema", None)), ()),
    ("models", "no list", _when(_MODELS, _set("models", {})), ()),
    *(
        (f"fixed {model}.{name}", "is accepted", _when("POST /generate", _answers(202, _TAKEN), status=422), ())
        for model, _, name in fixed_parameters()
    ),
    (
        "fixed phr00t.cfg",
        "another field is named",
        _when("POST /generate", _set("detail/metadata/fields/0/field", "cfg_scale"), status=422),
        (),
    ),
    ("fixed anisora.steps", "no field is named", _when("POST /generate", _set("detail/metadata", ...), status=422), ()),
    ("errors", "a page for an unknown path", _when("GET /no-such-path", _html), ()),
    ("errors", "no advice", _when("GET /no-such-path", _set("detail/user_action", "")), ()),
    ("errors", "unknown task is there", _when(f"GET /status/{'0' * 32}", _answers(200)), ()),
    ("errors", "wrong query is taken", _when("GET /gallery", _answers(200), status=422), ()),
    (_RENDER, "no task id", _when("POST /generate", _set("task_id", ...)), ()),
    (_RENDER, "not pending", _when("POST /generate", _set("status", "done")), ()),
    (_RENDER, "a member is missing", _when(_STATUS, _set("error_msg", ...)), ()),
    (_RENDER, "unknown stage", _when(_STATUS, _set("stage", "thinking")), ()),
    (_RENDER, "another task", _when(_STATUS, _set("task_id", "0" * 32)), ()),
    (_RENDER, "progress is no number", _when(_STATUS, _set("progress", "100")), ()),
    (_RENDER, "progress over 100", _when(_STATUS, _set("progress", 101)), ()),
    (_RENDER, "done at 99 %", _when(_STATUS, _set("progress", 99)), ()),
    (_RENDER, "progress falls", _when(_STATUS, _falling), ()),
    (_RENDER, "fails", _when(_STATUS, _set("status", "failed")), ()),
    (_RENDER, "never ends", _when(_STATUS, _set("status", "processing")), ()),
    (_RENDER, "no address of the result", _when(_STATUS, _set("result_url", None)), ()),
    (_RENDER, "early result is 404", _when(_RESULT, _answers(404)), ()),
    ("events", "another type", _when(_EVENTS, _header("content-type", "text/html")), (_RENDER,)),
    ("events", "none", _when(_EVENTS, _body(lambda _body: b"")), (_RENDER,)),
    ("events", "no JSON", _when(_EVENTS, _body(lambda body: body.replace(b"data: {", b"data: {{"))), (_RENDER,)),
    ("events", "no end", _when(_EVENTS, _body(lambda body: body.replace(b'"status":"done"', b'"status":"processing"'))), (_RENDER,)),
    ("events", "not found", _when(_EVENTS, _answers(404)), (_RENDER,)),
    ("results", "another type", _when(_RESULT, _header("content-type", "text/plain")), (_RENDER,)),
    ("results", "no tag", _when(_RESULT, _header("etag", None)), (_RENDER,)),
    ("results", "no ranges", _when(_RESULT, _header("accept-ranges", None)), (_RENDER,)),
    ("results", "no name", _when(_RESULT, _header("content-disposition", None)), (_RENDER,)),
    ("results", "cut file", _when(_RESULT, _body(lambda body: body[:-5]), status=200), (_RENDER,)),
    ("results", "no video", _when(_RESULT, _body(lambda body: body.replace(b"moov", b"free")), status=200), (_RENDER,)),
    ("results", "sent again", _when(_RESULT, _answers(200), status=304), (_RENDER,)),
    ("results", "HEAD differs", _when(f"HEAD /results/{_TASK}", _header("etag", '"x"')), (_RENDER,)),
    ("ranges", "whole file", _when(_RESULT, _answers(200), status=206), (_RENDER,)),
    ("ranges", "other bytes", _when(_RESULT, _body(lambda body: body[::-1]), status=206), (_RENDER,)),
    ("ranges", "another place", _when(_RESULT, _header("content-range", "bytes 0-1/2"), status=206), (_RENDER,)),
    ("ranges", "no size with 416", _when(_RESULT, _header("content-range", None), status=416), (_RENDER,)),
    ("ranges", "200 beyond the end", _when(_RESULT, _answers(200), status=416), (_RENDER,)),
    ("preview", "another type", _when(_PREVIEW, _header("content-type", "image/png")), (_RENDER,)),
    ("preview", "cut", _when(_PREVIEW, _body(lambda body: body[:-10])), (_RENDER,)),
    ("gallery", "not listed", _when("GET /gallery", _set("items", [])), (_RENDER,)),
    ("gallery", "a member is missing", _when("GET /gallery", _each_item("seed", ...)), (_RENDER,)),
    ("gallery", "another prompt", _when("GET /gallery", _each_item("prompt", "x")), (_RENDER,)),
    ("gallery", "no total", _when("GET /gallery", _set("total", ...)), (_RENDER,)),
    ("gallery", "total is no number", _when("GET /gallery", _set("total", None)), (_RENDER,)),
    ("gallery", "oldest first", _when("GET /gallery", _reversed_items), (_RENDER, "render 1.phr00t")),
    ("idempotency", "two tasks", _another_task, ()),
    ("idempotency", "another request is taken", _when("POST /generate", _answers(202, _TAKEN), status=422), ()),
    ("cancel", "another answer", _another_answer, ()),
    ("cancel", "goes on", _when(_STATUS, _set("status", "processing")), ()),
    ("admin closed", "open", _when(_HEALTH, _answers(200), status=401), ()),
    ("admin session", "wrong key opens", _when("POST /admin/session", _answers(204), status=403), ()),
    ("admin session", "right key is refused", _when("POST /admin/session", _answers(403), status=204), ()),
    ("admin session", "cookie for scripts", _when("POST /admin/session", _cookie("; *httponly"), status=204), ()),
    ("admin session", "no idle time", _when("GET /admin/session", _set("idle_timeout_seconds", ...), status=200), ()),
    ("admin session", "is good after its end", _when("GET /admin/session", _answers(200), status=401), ()),
    ("diagnostics", "not ok", _when(_HEALTH, _set("ok", False)), ()),
    ("diagnostics", "no count", _when(_HEALTH, _set("diagnostics/fallback_count", None)), ()),
    ("diagnostics", "no lane", _when(_HEALTH, _set("diagnostics/lanes", [])), ()),
    ("diagnostics", "a lane lacks a fact", _when(_HEALTH, _set("diagnostics/lanes/0/warm", ...)), ()),
    ("diagnostics", "tells a secret", _when(_HEALTH, _told("diagnostics/lanes/0/model")), ()),
    ("audit log", "lacks this run", _when(_LOGS, _set("logs", [])), ("admin session",)),
    ("audit log", "oldest first", _when(_LOGS, _set("logs/0/id", -1)), ("admin session",)),
    ("audit log", "lacks a member", _when(_LOGS, _set("logs/0/ip", ...)), ("admin session",)),
    ("audit log", "tells a secret", _when(_LOGS, _told("logs/0/details")), ("admin session",)),
    ("delete", "another answer", _when(f"DELETE /gallery/{_TASK}", _set("deleted", False)), (_RENDER,)),
    ("delete", "is still there", _when(_RESULT, _answers(200), status=404), (_RENDER,)),
    ("cleanup", "nothing can be deleted", _when(f"DELETE /gallery/{_TASK}", _answers(503)), (_RENDER,)),
]


@pytest.mark.parametrize(
    ("check", "rule", "before"), [pytest.param(check, rule, before, id=f"{check}: {what}") for check, what, rule, before in _BROKEN]
)
def test_check_fails_and_says_what_to_do_when_its_reply_is_broken(
    bridge: ContractBridge, check: str, rule: Rule, before: tuple[str, ...]
) -> None:
    names = (*before, *((check,) if check != "cleanup" else ()))
    if names not in _GOOD:
        assert {name: result.outcome for name, result in smoked(bridge.url, names).items() if result.outcome is not Outcome.OK} == {}
        _GOOD.add(names)
    _BREAKER.rule = rule
    try:
        results = smoked(bridge.url, names, render_timeout_s=0.2)
    finally:
        _BREAKER.rule = None
    assert results[check].outcome is Outcome.FAILED, results[check]
    assert results[check].detail
    assert results[check].advice
    assert KEY not in results[check].detail


def test_everything_else_is_skipped_when_the_bridge_is_not_there() -> None:
    results = smoked("http://127.0.0.1:9", rounds=1)
    outcomes = [result.outcome for result in results.values()]
    assert (outcomes[0], set(outcomes[1:])) == (Outcome.FAILED, {Outcome.SKIPPED})
    assert "http://127.0.0.1:9" in results["health"].advice
