"""Whether the collector of traces takes spans, where one is configured."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from pydantic import ValidationError

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import ProbeError, Probes
from runtime.settings import problems
from runtime.traces.settings import TraceSettings

_TAKEN = range(200, 300)
_WHO_ARE_YOU = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_PAGE = "docs/howto/traces.md has the settings. Nothing waits for it: videos are made all the same, and their spans are dropped."


def check_collector(case: Case, probes: Probes) -> Iterable[Finding]:
    """A message without spans, sent as the processes would send one."""
    names = ("otlp_endpoint", "otlp_headers")
    try:
        settings = TraceSettings.model_validate({name: case.environment.get(f"WARMLANE_{name.upper()}", "") for name in names})
    except ValidationError as error:
        yield failed("collector", "; ".join(problems(error)), "No process starts with this setting.")
        return
    url = settings.otlp_url()
    if not url:
        yield skipped("collector", "traces are off: WARMLANE_OTLP_ENDPOINT is not set")
        return
    try:
        status = probes.collector(url, settings.otlp_header_map())
    except ProbeError as error:
        yield warning("collector", str(error), _PAGE)
        return
    if status in _TAKEN:
        yield ok("collector", f"{url} takes spans")
    elif status in _WHO_ARE_YOU:
        yield warning("collector", f"{url} answers {status}", "Set WARMLANE_OTLP_HEADERS to the credential that it asks for.")
    else:
        yield warning("collector", f"{url} answers {status}", _PAGE)
