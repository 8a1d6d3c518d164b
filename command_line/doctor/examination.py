"""All checks in their order, and what comes of them together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from command_line.doctor import machine_probes, network_probes
from command_line.doctor.clock import check_admission_clock, check_bridge_clock, check_monotonic
from command_line.doctor.collector import check_collector
from command_line.doctor.credentials import check_certificates, check_tokens
from command_line.doctor.finding import Case, Check, Finding, Outcome, failed
from command_line.doctor.gpu import check_allocator, check_driver, check_gpu_processes, check_torch
from command_line.doctor.host import check_memory, check_space, check_speed
from command_line.doctor.ports import check_ports
from command_line.doctor.probes import ProbeError, Probes
from command_line.doctor.reachability import check_admission, check_bridge, check_lanes, check_object_store
from command_line.doctor.settings import check_settings
from command_line.doctor.versions import check_packages, check_pins, check_python
from command_line.doctor.weights import check_weights
from command_line.failures import CommandError

CHECKS: Sequence[Check] = (
    check_python,
    check_packages,
    check_pins,
    check_settings,
    check_tokens,
    check_certificates,
    check_memory,
    check_space,
    check_speed,
    check_driver,
    check_torch,
    check_gpu_processes,
    check_allocator,
    check_weights,
    check_ports,
    check_monotonic,
    check_admission,
    check_lanes,
    check_bridge,
    check_object_store,
    check_collector,
    check_admission_clock,
    check_bridge_clock,
)


def real_probes() -> Probes:
    """Those that look at this machine and what it reaches."""
    return Probes(
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        requirements=machine_probes.requirements,
        pins=machine_probes.pins,
        version_of=machine_probes.version_of,
        driver=machine_probes.driver,
        survey=machine_probes.survey,
        free_bytes=machine_probes.free_bytes,
        disk_of=machine_probes.disk_of,
        disk_speed=machine_probes.disk_speed,
        holder=machine_probes.holder,
        descendants=machine_probes.descendants,
        now=machine_probes.now,
        snapshot=network_probes.snapshot,
        http_health=network_probes.http_health,
        grpc_health=network_probes.grpc_health,
        object_store=network_probes.object_store,
        collector=network_probes.collector,
        certificates_end=machine_probes.certificates_end,
    )


def examine(case: Case, probes: Probes, *, checks: Sequence[Check] = CHECKS, on_check: Callable[[str], None]) -> Iterator[Finding]:
    """The findings, as they come. A check that cannot look, or breaks, is a finding too: the others are made all the same.

    Args:
        case: what is looked at.
        probes: to look with.
        checks: to make, in this order.
        on_check: told what is looked at next.
    """
    for check in checks:
        name = name_of(check)
        on_check(name)
        try:
            yield from check(case, probes)
        except ProbeError as error:
            yield failed(name, str(error), "It could not be looked at; the rest of this table may say why.")
        except CommandError:
            # Ctrl-C, as a command tells it.
            raise
        except Exception as error:
            yield failed(name, f"the check itself broke: {type(error).__name__}: {error}", "Report it as an error of this program.")


def name_of(check: Check) -> str:
    """`check_gpu_processes` looks at `gpu processes`."""
    return str(getattr(check, "__name__", type(check).__name__)).removeprefix("check_").replace("_", " ")


def worst(findings: Sequence[Finding]) -> Outcome:
    """Of all together: failed, else warning, else ok."""
    found = {finding.outcome for finding in findings}
    return next((one for one in (Outcome.FAILED, Outcome.WARNING) if one in found), Outcome.OK)
