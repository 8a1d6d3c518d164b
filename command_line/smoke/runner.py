"""Runs the checks one after the other, and takes away what they made, whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from command_line.smoke import access, admin, files, renders, rules, tasks
from command_line.smoke.outcome import CheckFailedError, CheckResult, CheckSkippedError, Outcome
from command_line.smoke.overload import overload
from command_line.smoke.visit import Visit
from runtime.rules.catalogue import MODELS

HEALTH = "health"
CLEANUP = "cleanup"
_CLEANUP_S = 60.0
_OTHER_SHAPE = "Compare the bridge's version; look whether a proxy changes replies."


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: its name in the report, and what it does; it returns what it found, and raises what is wrong."""

    name: str
    run: Callable[[Visit], Awaitable[str]]


def checks(*, rounds: int, with_overload: bool) -> list[Check]:
    """Every check, in their order: the later ones look at what the earlier ones made."""
    fixed = [
        Check(name=f"fixed {model}.{name}", run=partial(rules.fixed_parameter, model=model, parameter=parameter, name=name))
        for model, parameter, name in rules.fixed_parameters()
    ]
    # The models in turn, so that every worker that serves both must switch each time.
    clips = [(model, number) for number in range(1, rounds + 1) for model in MODELS]
    rendered = [Check(name=f"render {number}.{model}", run=partial(renders.render, model=model, number=number)) for model, number in clips]
    return [
        Check(name=HEALTH, run=access.health),
        Check(name="documentation", run=access.documentation),
        Check(name="no credential", run=access.no_credential),
        Check(name="wrong key", run=access.wrong_key),
        Check(name="API key", run=access.right_key),
        Check(name="session", run=access.session),
        Check(name="bad session", run=access.bad_session),
        Check(name="models", run=rules.models),
        *fixed,
        Check(name="errors", run=rules.errors),
        *rendered,
        Check(name="events", run=renders.events),
        Check(name="results", run=files.results),
        Check(name="ranges", run=files.ranges),
        Check(name="preview", run=files.previews),
        Check(name="gallery", run=files.gallery),
        Check(name="idempotency", run=tasks.idempotency),
        Check(name="cancel", run=tasks.cancel),
        Check(name="admin closed", run=admin.closed),
        Check(name="admin session", run=admin.session),
        Check(name="diagnostics", run=admin.diagnostics),
        Check(name="audit log", run=admin.logs),
        *([Check(name="overload", run=overload)] if with_overload else []),
        Check(name="delete", run=tasks.delete),
    ]


async def run_checks(visit: Visit, wanted: Sequence[Check], report: Callable[[CheckResult], None]) -> list[CheckResult]:
    """Runs them all; every result is reported at once. Interrupted, it still takes away what was made."""
    results: list[CheckResult] = []

    def add(result: CheckResult) -> None:
        results.append(result)
        report(result)

    try:
        for check in wanted:
            if results and results[0].name == HEALTH and results[0].outcome is Outcome.FAILED:
                add(CheckResult(name=check.name, outcome=Outcome.SKIPPED, detail="the bridge is not there"))
                continue
            visit.tell(check.name)
            add(await _result(check, visit))
    finally:
        if visit.made or visit.clips:
            add(await _cleaned_up(visit))
    return results


async def _result(check: Check, visit: Visit) -> CheckResult:
    started_s = time.monotonic()
    outcome, detail, advice = Outcome.OK, "", ""
    try:
        detail = await check.run(visit)
    except CheckSkippedError as error:
        outcome, detail = Outcome.SKIPPED, str(error)
    except CheckFailedError as error:
        outcome, detail, advice = Outcome.FAILED, error.problem, error.advice
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # The checks take replies apart as the contract says that they are; a stranger's reply may be anything.
        outcome, detail, advice = Outcome.FAILED, f"a reply has another shape than the contract's: {error!r}", _OTHER_SHAPE
    duration_s = time.monotonic() - started_s
    return CheckResult(name=check.name, outcome=outcome, detail=_without_keys(visit, detail), advice=advice, duration_s=duration_s)


def _without_keys(visit: Visit, text: str) -> str:
    """Replies are quoted in reports, and a bad one may repeat what it was sent."""
    for key in (visit.api_key, visit.admin_key, visit.session and visit.session.partition("=")[2]):
        if key:
            text = text.replace(key, "[key]")
    return text


async def _cleaned_up(visit: Visit) -> CheckResult:
    """Deletes what is left, with one more try for what was not to be deleted at first."""
    started_s = time.monotonic()
    try:
        async with asyncio.timeout(_CLEANUP_S):
            for _ in range(2):
                await visit.take_away(list(visit.made))
    except TimeoutError:
        pass
    duration_s = time.monotonic() - started_s
    if not visit.made:
        return CheckResult(name=CLEANUP, outcome=Outcome.OK, detail="everything that was made is deleted", duration_s=duration_s)
    detail = f"{len(visit.made)} tasks are left: {', '.join(visit.made)}"
    advice = "Delete them with DELETE /gallery/TASK when the bridge answers again."
    return CheckResult(name=CLEANUP, outcome=Outcome.FAILED, detail=detail, advice=advice, duration_s=duration_s)
