"""Which port every process listens on, and whether it is free."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from command_line.failures import CommandError
from command_line.program import program

LOOPBACK = "127.0.0.1"
_METRICS = "-metrics"
HTTP_OPTION = "--http-port"
GRPC_OPTION = "--grpc-port"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports of one stack.

    Attributes:
        by_process: port of each process that listens; that of its metrics under `metrics_of` it.
        picked: those of these names whose port was picked free here: a lost race for it is ended by picking again.
    """

    by_process: Mapping[str, int]
    picked: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A process that listens.

    Attributes:
        process: its name; `metrics_of` it for the port of its metrics.
        default: its port when nothing else is said.
        option: the option of `warmlane up` that moves it.
        named: what the option said: a port, 0 for any free one, None when it was not given (or the option names another process's port).
    """

    process: str
    default: int
    option: str
    named: int | None


def metrics_of(process: str) -> str:
    """Under which name the port of the process's metrics is listed."""
    return process + _METRICS


def owner_of(name: str) -> str:
    """The process that listens on the port of this name."""
    return name.removesuffix(_METRICS)


def plan_ports(listeners: Iterable[Listener], *, side_by_side: bool) -> Ports:
    """Decides every port.

    Args:
        listeners: who listens.
        side_by_side: pick every port that is not named, so that stacks can stand side by side.

    Raises:
        CommandError: a named or default port is taken; the sentence names the port and the option.
    """
    listeners = tuple(listeners)
    fixed = {one.process: number for one in listeners if (number := _fixed_port(one, side_by_side=side_by_side)) is not None}
    for one in listeners:
        if one.process in fixed and is_taken(fixed[one.process]):
            raise CommandError(_taken(one, fixed[one.process]))
    _refuse_twins(fixed)
    to_pick = [one.process for one in listeners if one.process not in fixed]
    picked = dict(zip(to_pick, pick_free_ports(len(to_pick), avoid=fixed.values()), strict=True))
    return Ports(by_process=fixed | picked, picked=frozenset(picked))


def pick_free_ports(count: int, *, avoid: Collection[int] = ()) -> list[int]:
    """Distinct ports that were free a moment ago. All are held until the last is found; what takes one afterwards shows at the start."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            one = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            one.bind((LOOPBACK, 0))
            port = int(one.getsockname()[1])
            if port not in avoid:
                found.append(port)
    return found


def is_taken(port: int) -> bool:
    """Whether some process listens on the port of the loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that are still closing do not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def _fixed_port(listener: Listener, *, side_by_side: bool) -> int | None:
    if listener.named is not None:
        return listener.named or None
    return None if side_by_side else listener.default


def _taken(listener: Listener, port: int) -> str:
    if listener.named is not None:
        what = f"port {port} of {listener.process} is taken."
    else:
        what = f"port {port}, the default of {listener.process}, is taken (another stack?)."
    return f"{what} Give another one: `{shlex.join(program())} up {listener.option} N`, or 0 in place of N for any free one."


def _refuse_twins(fixed: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for process, port in fixed.items():
        if port in seen:
            msg = f"port {port} is meant for both {seen[port]} and {process}. Give one of them another port."
            raise CommandError(msg)
        seen[port] = process
