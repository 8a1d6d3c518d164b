"""Whether the installed packages are what this program was written against and tested with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import Probes

_PYTHON = (3, 11)
_SHOWN = 5
_EXTRAS = {"admission": "admission", "bridge": "the HTTP bridge", "lane": "a lane"}
_INSTALL = "Install what the program was tested with: `make install`."


def check_python(case: Case, probes: Probes) -> Iterable[Finding]:
    """The interpreter."""
    told = ".".join(map(str, probes.python))
    if probes.python[:2] == _PYTHON:
        yield ok("python", told)
    else:
        yield failed("python", f"{told}; this program is for 3.11", "Install Python 3.11 and run `make install`.")


def check_packages(case: Case, probes: Probes) -> Iterable[Finding]:
    """The packages of each process, against the ranges that the package states."""
    stated = probes.requirements()
    if stated is None:
        yield skipped("packages", "warmlane is not installed as a package here, so nothing states what it needs")
        return
    requirements = [one for text in stated if (one := Requirement(text)).name != "warmlane"]
    own = [one for one in requirements if _is_needed(one, "")]
    yield _of("packages", own, probes, "what every process needs")
    by_extra = {extra: [one for one in requirements if _is_needed(one, extra) and one not in own] for extra in _EXTRAS}
    for extra, needed in by_extra.items():
        # What two of them need says nothing of either.
        others = {one.name for other, theirs in by_extra.items() if other != extra for one in theirs}
        if not any(probes.version_of(one.name) for one in needed if one.name not in others):
            yield skipped(f"packages.{extra}", f"not installed: {_EXTRAS[extra]} cannot run here")
        else:
            yield _of(f"packages.{extra}", needed, probes, f"what {_EXTRAS[extra]} needs")


def check_pins(case: Case, probes: Probes) -> Iterable[Finding]:
    """The installed versions against the exact ones that the tests ran with."""
    pins = probes.pins()
    if not pins:
        yield skipped("pins", "constraints.txt lies beside the sources only")
        return
    others = [f"{name} {found}, not {pin}" for name, pin in pins.items() if (found := probes.version_of(name)) and not _is_same(found, pin)]
    if others:
        yield warning("pins", f"other versions than those of constraints.txt: {_shown(others)}", _INSTALL)
    else:
        yield ok("pins", "every installed package has the version of constraints.txt")


def _of(name: str, needed: Sequence[Requirement], probes: Probes, what: str) -> Finding:
    problems = list(_problems(needed, probes))
    if problems:
        return failed(name, _shown(problems), _INSTALL)
    return ok(name, f"{what}: {len(needed)} packages, all in their ranges")


def _problems(needed: Sequence[Requirement], probes: Probes) -> Iterator[str]:
    for one in needed:
        found = probes.version_of(one.name)
        if found is None:
            yield f"{one.name} is missing"
        elif not one.specifier.contains(found, prereleases=True):
            yield f"{one.name} {found} is not {one.specifier}"


def _is_needed(requirement: Requirement, extra: str) -> bool:
    """On this machine, by whoever needs this extra (empty: by everyone)."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _is_same(found: str, pin: str) -> bool:
    """A build's suffix, such as `+cpu`, makes no other version."""
    try:
        return Version(found).public == Version(pin).public
    except InvalidVersion:
        return found == pin


def _shown(problems: Sequence[str]) -> str:
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more
