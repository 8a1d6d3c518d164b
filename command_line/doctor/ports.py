"""Whether the ports are free for a stack to come, or held by the stack that runs."""

from __future__ import annotations

from collections.abc import Iterable

from command_line.doctor.finding import Case, Finding, failed, ok, warning
from command_line.doctor.probes import Holder, Probes
from command_line.up.ports import owner_of
from command_line.up.processes import ALL_PROCESSES, listeners


def check_ports(case: Case, probes: Probes) -> Iterable[Finding]:
    """Of a running stack each port; without one the default ports."""
    return _of_running(case, probes) if case.ports else _of_coming(probes)


def _of_running(case: Case, probes: Probes) -> Iterable[Finding]:
    for name, port in case.ports.items():
        holder, own = probes.holder(port), case.pids.get(owner_of(name))
        what, where = f"port.{name}", f"{port}, held by "
        if holder is None:
            log = case.data_dir / "logs" / f"{owner_of(name)}.log"
            yield failed(what, f"nobody listens on {port}, where this stack's {owner_of(name)} should", f"Its last words: {log}")
        elif holder.pid is not None and own is not None and holder.pid != own:
            yield failed(what, where + _told(holder), f"This stack's {owner_of(name)} is process {own}: stop the other one.")
        else:
            yield ok(what, where + f"this stack's {owner_of(name)}" + (f" (process {own})" if own else ""))


def _of_coming(probes: Probes) -> Iterable[Finding]:
    taken: list[Finding] = []
    wanted = listeners(ALL_PROCESSES, http_port=None, grpc_port=None)
    for one in wanted:
        holder = probes.holder(one.default)
        if holder is not None:
            found = f"{one.default}, the default of {one.process}, is held by {_told(holder)}"
            taken.append(warning(f"port.{one.process}", found, f"`warmlane up {one.option} 0` picks another one, or stop what holds it."))
    return taken or [ok("ports", f"the {len(wanted)} default ports are free: {', '.join(str(one.default) for one in wanted)}")]


def _told(holder: Holder) -> str:
    return f"{holder.name or 'a process'} (process {holder.pid})" if holder.pid is not None else "a process of another user"
