"""Whether every WARMLANE_ variable of the environment is one that some process reads."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from functools import cache
from importlib import resources

from command_line.doctor.finding import Case, Finding, ok, warning
from command_line.doctor.probes import Probes
from command_line.up.leftovers import MARK

KNOWN_FILE = "known_settings.json"
"""Beside this module; made from the settings' classes by `python docs/settings.py`, as this program imports none of them."""

_PREFIX = "WARMLANE_"


@cache
def known_settings() -> frozenset[str]:
    """Every variable that a process, `warmlane` or the compose file reads."""
    names: list[str] = json.loads(resources.files("command_line.doctor").joinpath(KNOWN_FILE).read_text(encoding="utf-8"))
    return frozenset(names) | {MARK}


def check_settings(case: Case, probes: Probes) -> Iterable[Finding]:
    """Names that nobody reads, with the nearest that somebody does."""
    given = sorted(name for name in case.environment if name.startswith(_PREFIX))
    unknown = [name for name in given if name not in known_settings()]
    for name in unknown:
        nearest = difflib.get_close_matches(name, known_settings(), n=1, cutoff=0.75)
        advice = f"Did you mean {nearest[0]}?" if nearest else "Unset it; docs/reference/settings.md lists every setting."
        yield warning(f"settings.{name}", "no process reads it", advice)
    if not unknown:
        yield ok(
            "settings", f"{len(given)} WARMLANE_ variables are set, all known" if given else "no WARMLANE_ variable is set: defaults hold"
        )
