"""Whether tokens and TLS files are set so that the processes can call each other, and how long the certificates last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import Field, ValidationError

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import ProbeError, Probes
from command_line.failures import CommandError
from command_line.up.credentials import check_credentials
from command_line.up.processes import ALL_PROCESSES
from runtime.roles import Role
from runtime.rpc_settings import CallerTlsSettings, ServerTlsSettings, Tokens
from runtime.settings import problems

_CERTIFICATES = (
    "WARMLANE_TLS_CERT_FILE",
    "WARMLANE_TLS_CLIENT_CA_FILE",
    "WARMLANE_TLS_CA_FILE",
    "WARMLANE_TLS_CLIENT_CERT_FILE",
    "WARMLANE_HTTP_TLS_CERT_FILE",
)
# Those of docs/howto/across-machines.md last 90 days.
_SOON = timedelta(days=14)
_RENEW = "Issue a new one (docs/howto/across-machines.md): servers take it by themselves, callers at their next start."


class _Credentials(ServerTlsSettings, CallerTlsSettings):
    """All that this environment sets, of whichever process."""

    bridge_token: Tokens = Field(default=None)
    client_token: Tokens = Field(default=None)
    lane_token: Tokens = Field(default=None)
    operator_token: Tokens = Field(default=None)


def check_tokens(case: Case, probes: Probes) -> Iterable[Finding]:
    """TLS files and tokens, as the processes would take them."""
    given = {name: value for name, value in case.environment.items() if value and name.startswith("WARMLANE_")}
    try:
        _Credentials.model_validate({name: given.get(f"WARMLANE_{name.upper()}", "") for name in _Credentials.model_fields})
    except ValidationError as error:
        yield failed("credentials", "; ".join(problems(error)), "Correct the variable; docs/howto/across-machines.md has them all.")
        return
    roles = [str(role) for role in Role if f"WARMLANE_{role.upper()}_TOKEN" in given]
    speaks_tls = "WARMLANE_TLS_CERT_FILE" in given or "WARMLANE_TLS_CA_FILE" in given
    if not roles and not speaks_tls:
        yield ok("credentials", "no tokens and no TLS: gRPC is open to everyone on this machine, and listens on loopback only")
        return
    told = f"tokens of {', '.join(roles) or 'nobody'}; TLS {'is' if speaks_tls else 'is not'} set"
    try:
        check_credentials(ALL_PROCESSES, given)
    except CommandError as error:
        # A machine with some of the processes needs some of the settings only.
        yield warning(
            "credentials", f"{told}. For all processes on one machine: {error.message}", "Nothing, where only some of them run here."
        )
    else:
        yield ok("credentials", told)


def check_certificates(case: Case, probes: Probes) -> Iterable[Finding]:
    """How long each certificate lasts that is set."""
    named = {name: value for name in _CERTIFICATES if (value := case.environment.get(name, ""))}
    if not named:
        yield skipped("certificates", "no certificate is set")
    yield from _ends(named, probes)


def _ends(named: Mapping[str, str], probes: Probes) -> Iterator[Finding]:
    now = probes.now().utc
    for variable, path in named.items():
        name = f"certificates.{variable.removeprefix('WARMLANE_').lower()}"
        try:
            ends = probes.certificates_end(Path(path))
        except ProbeError as error:
            yield failed(name, f"{path}: {error}", f"Correct {variable}.")
            continue
        first = min(ends)
        which = "ends" if len(ends) == 1 else f"has {len(ends)} certificates, the first ends"
        # Of several CAs one may have been replaced; a chain is as good as its worst part.
        is_over = (max(ends) if variable.endswith("CA_FILE") else first) <= now
        yield _end(name, f"{path} {which} on {first:%Y-%m-%d %H:%M}Z", first, now, is_over=is_over)


def _end(name: str, told: str, end: datetime, now: datetime, *, is_over: bool) -> Finding:
    if is_over:
        return failed(name, f"{told}, which is past", _RENEW)
    if end <= now:
        return warning(name, f"{told}, which is past", "Take it out when nobody has a certificate of it any more.")
    if end - now < _SOON:
        return warning(name, f"{told}, in {(end - now).days} days", _RENEW)
    return ok(name, told)
