"""Whether the clock runs as it should, and agrees with admission's and the bridge's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import Moment, ProbeError, Probes
from command_line.doctor.reachability import bridge_url

# People compare times across machines; beyond this, orders of events look wrong.
_WARN_S = 2.0
# S3 refuses requests that are signed more than 15 minutes off; certificates begin and end by the clock.
_FAIL_S = 300.0
# The bridge tells whole seconds.
_DATE_STEP_S = 1.0
_STEPPED_S = 0.5
_WHOSE = {"clock.admission": "admission", "clock.bridge": "the bridge"}
_ADVICE = "Let the machine keep time (chrony, systemd-timesyncd); which of the two is wrong, `date -u` on both shows."


def check_monotonic(case: Case, probes: Probes) -> Iterable[Finding]:
    """Monotonic time never goes back, and UTC goes with it."""
    first = probes.now()
    last = first
    for _ in range(1000):
        before, last = last, probes.now()
        if last.monotonic_s < before.monotonic_s:
            yield failed(
                "clock.monotonic", "monotonic time went back", "The kernel's clock source is broken: every deadline depends on it."
            )
            return
    stepped_s = abs((last.utc - first.utc).total_seconds() - (last.monotonic_s - first.monotonic_s))
    if stepped_s > _STEPPED_S:
        yield warning(
            "clock.monotonic", f"UTC was set by {stepped_s:.1f} s while it was looked at", "Look at what sets this machine's clock."
        )
    else:
        yield ok("clock.monotonic", f"monotonic, and UTC goes with it ({last.utc:%Y-%m-%d %H:%M:%S}Z)")


def check_admission_clock(case: Case, probes: Probes) -> Iterable[Finding]:
    """UTC against admission's."""
    try:
        answer = probes.snapshot(case)
    except ProbeError:
        yield skipped("clock.admission", "admission does not answer")
        return
    taken = answer.snapshot.taken_at.ToDatetime(tzinfo=answer.asked.utc.tzinfo)
    yield _compared("clock.admission", _ahead_s(taken - answer.asked.utc, answer.asked, answer.answered, 0.0))


def check_bridge_clock(case: Case, probes: Probes) -> Iterable[Finding]:
    """UTC against the Date of the bridge."""
    url = bridge_url(case, probes)
    try:
        answer = probes.http_health(url, case) if url else None
    except ProbeError:
        answer = None
    if answer is None or answer.date is None:
        yield skipped("clock.bridge", "the bridge does not answer")
    else:
        yield _compared("clock.bridge", _ahead_s(answer.date - answer.asked.utc, answer.asked, answer.answered, _DATE_STEP_S))


def _ahead_s(since_asked: timedelta, asked: Moment, answered: Moment, step_s: float) -> float:
    """How far the other clock is ahead, at the least: it was read some time between the question and the answer."""
    ahead_s = since_asked.total_seconds()
    took_s = answered.monotonic_s - asked.monotonic_s
    if ahead_s < -step_s:
        return ahead_s + step_s
    return max(0.0, ahead_s - took_s)


def _compared(name: str, ahead_s: float) -> Finding:
    whose = _WHOSE[name]
    if abs(ahead_s) <= _WARN_S:
        return ok(name, f"within {max(abs(ahead_s), 0.1):.1f} s of {whose}'s")
    told = f"{whose}'s clock is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    return failed(name, told, _ADVICE) if abs(ahead_s) > _FAIL_S else warning(name, told, _ADVICE)
