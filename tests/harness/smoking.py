"""Runs checks of `warmlane smoke` in this process, all or some by name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from command_line.smoke.deployment import deployment
from command_line.smoke.outcome import CheckResult
from command_line.smoke.runner import checks, run_checks
from command_line.smoke.visit import Visit
from tests.harness.bridge import KEY
from tests.harness.contract_bridge import ADMIN_KEY


def smoked(url: str, names: Sequence[str] | None = None, *, rounds: int = 1, **fields: Any) -> dict[str, CheckResult]:
    """The results by name; `fields` are those of the visit, with both keys unless others are given."""
    return asyncio.run(smoke(url, names, rounds=rounds, **fields))


async def smoke(url: str, names: Sequence[str] | None = None, *, rounds: int = 1, **fields: Any) -> dict[str, CheckResult]:
    """As `smoked`, in the running loop."""
    every = checks(rounds=rounds, with_overload=names is not None and "overload" in names)
    wanted = [check for check in every if names is None or check.name in names]
    assert names is None or {check.name for check in wanted} == set(names)
    async with deployment(url, None) as found:
        visit = Visit(deployment=found, **{"api_key": KEY, "admin_key": ADMIN_KEY, "poll_s": 0.005, **fields})
        results = await run_checks(visit, wanted, lambda _result: None)
    return {result.name: result for result in results}
