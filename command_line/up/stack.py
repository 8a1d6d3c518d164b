"""One run of a stack: start, wait until it serves, keep it until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from command_line.client import AdmissionClient, admission_client
from command_line.failures import CommandError, ExitCode
from command_line.up.folder import DataFolder
from command_line.up.ports import Listener, Ports, is_taken, owner_of, plan_ports
from command_line.up.processes import Process
from command_line.up.readiness import Wanted, missing
from command_line.up.screen import Screen
from command_line.up.supervisor import BackOff, Supervisor
from runtime.credentials import OPEN_CALLER, CallerCredentials

_POLL_S = 0.5
_PORT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run, once the ports are known.

    Attributes:
        processes: the process table.
        ports: where they listen.
        address: where admission answers.
        credentials: what it is shown.
        wanted: what must serve before `ready` is said.
        first_steps: lines to print then.
    """

    processes: Sequence[Process]
    ports: Ports
    address: str
    credentials: CallerCredentials = OPEN_CALLER
    wanted: Wanted
    first_steps: Sequence[str]


async def run_stack(
    listeners: Sequence[Listener],
    make_plan: Callable[[Ports], Plan],
    *,
    side_by_side: bool,
    folder: DataFolder,
    screen: Screen,
    back_off: BackOff | None = None,
) -> None:
    """Runs until SIGINT, SIGTERM or SIGHUP; a second signal ends everything at once.

    Args:
        listeners: who listens where, by the options.
        make_plan: the plan for given ports; called again with others when a picked one was lost before the stack served.
        side_by_side: pick every port that was not named.
        folder: held by the caller.
        screen: is told everything.
        back_off: of the restarts.

    Raises:
        CommandError: a port is taken.
    """
    signals = _Signals()
    with signals.caught():
        for _attempt in range(_PORT_ATTEMPTS):
            plan = make_plan(plan_ports(listeners, side_by_side=side_by_side))
            if await _run_plan(plan, signals, folder, screen, back_off):
                return
            screen.line("another program took a port that was free a moment ago; starting again on other ports", style="yellow")
    msg = "other programs keep taking the ports that were picked. Name free ones with --http-port and --grpc-port."
    raise CommandError(msg, exit_code=ExitCode.UNAVAILABLE)


async def _run_plan(plan: Plan, signals: _Signals, folder: DataFolder, screen: Screen, back_off: BackOff | None) -> bool:
    """False when a picked port was lost before the stack served; True when it was told to stop."""
    supervisor = Supervisor(plan.processes, folder=folder, reporter=screen, back_off=back_off)
    signals.on_second = supervisor.kill
    folder.write_ports(plan.ports.by_process)
    try:
        async with supervisor, admission_client(plan.address, credentials=plan.credentials) as client:
            if await _until_ready(plan, signals, supervisor, client, screen):
                screen.line("ready", style="bold green")
                for line in plan.first_steps:
                    screen.line(line)
                while not await signals.asked_within(_POLL_S):
                    supervisor.check()
            elif not signals.asked.is_set():
                return False
            screen.close()
            screen.line("stopping")
    finally:
        screen.close()
        folder.clear_ports()
    return True


async def _until_ready(plan: Plan, signals: _Signals, supervisor: Supervisor, client: AdmissionClient, screen: Screen) -> bool:
    """True when the stack serves; False when it was told to stop before that, or lost a port."""
    while not signals.asked.is_set():
        supervisor.check()
        if _lost_port(plan.ports, supervisor):
            return False
        waits = await missing(plan.wanted, client)
        screen.waiting(waits)
        if not waits:
            return True
        await signals.asked_within(_POLL_S)
    return False


def _lost_port(ports: Ports, supervisor: Supervisor) -> bool:
    """Whether a process that died, and does not run now, had picked a port that somebody else holds."""
    return any(
        supervisor.deaths(owner_of(name)) > 0 and supervisor.pid(owner_of(name)) is None and is_taken(ports.by_process[name])
        for name in ports.picked
        if name in ports.by_process
    )


class _Signals:
    """The wish to stop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.on_second: Callable[[], None] | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._receive)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def asked_within(self, seconds: float) -> bool:
        """Waits that long, or shorter when the wish comes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.asked.wait(), seconds)
        return self.asked.is_set()

    def _receive(self) -> None:
        if self.asked.is_set() and self.on_second is not None:
            self.on_second()
        self.asked.set()
