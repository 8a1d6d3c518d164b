"""One run of a stack with stand-ins for its processes and a scripted admission."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from rich.console import Console
from warmlane.admission.v1 import operator_service_pb2

from command_line.failures import CommandError
from command_line.up.folder import DataFolder, read_ports
from command_line.up.ports import Listener, Ports
from command_line.up.readiness import Wanted
from command_line.up.screen import Screen
from command_line.up.stack import Plan, run_stack
from command_line.up.supervisor import BackOff
from tests.unit.command_line.conftest import Served
from tests.unit.command_line.up.conftest import DOOMED, POLITE, stand_in, until

LANE = Listener(process="lane-anisora", default=1, option="--grpc-port", named=None)


@dataclass
class Run:
    """A stack that runs beside the test.

    Attributes:
        folder: its data.
        output: what it printed.
        plans: the ports of every plan that was made.
    """

    folder: DataFolder
    address: str
    output: io.StringIO = field(default_factory=io.StringIO)
    plans: list[Ports] = field(default_factory=list)

    def start(self, code_of: Callable[[Ports], str]) -> asyncio.Task[None]:
        """Runs one stand-in as the lane."""

        def make_plan(ports: Ports) -> Plan:
            self.plans.append(ports)
            return Plan(
                processes=[stand_in(LANE.process, code_of(ports))],
                ports=ports,
                address=self.address,
                wanted=Wanted(lanes=(LANE.process,), bridge_port=None),
                first_steps=["first step [not markup]"],
            )

        screen = Screen(Console(file=self.output, width=40))
        back_off = BackOff(first_s=0.05)
        running = run_stack([LANE], make_plan, side_by_side=True, folder=self.folder, screen=screen, back_off=back_off)
        return asyncio.create_task(running, name="stack")

    def printed(self) -> list[str]:
        """The lines so far."""
        return self.output.getvalue().splitlines()


@pytest.fixture
def run(folder: DataFolder, admission: Served) -> Run:
    """A stack to be started."""
    return Run(folder=folder, address=admission.address)


def _make_ready(admission: Served) -> None:
    del admission.script.snapshot.lanes[:]
    admission.script.snapshot.lanes.add(lane_id=LANE.process, warm=True, availability=operator_service_pb2.AVAILABILITY_READY)


async def _stop(task: asyncio.Task[None]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    await task


async def test_ready_is_printed_when_the_lane_is_warm(run: Run, admission: Served) -> None:
    admission.script.snapshot.lanes.add(lane_id=LANE.process, reason="loads the pipeline")
    task = run.start(lambda _ports: POLITE)
    await until(lambda: "waiting for lane-anisora (loads the pipeline)" in run.printed())
    assert "ready" not in run.printed()
    _make_ready(admission)
    await until(lambda: "first step [not markup]" in run.printed())
    assert run.printed().index("ready") < run.printed().index("first step [not markup]")
    assert read_ports(run.folder.root) == run.plans[0].by_process
    await _stop(task)


async def test_everything_is_stopped_when_sigterm_comes(run: Run, admission: Served) -> None:
    _make_ready(admission)
    task = run.start(lambda _ports: POLITE)
    await until(lambda: "ready" in run.printed() and run.folder.log_tail(LANE.process, since=0, lines=9) == ["up"])
    await _stop(task)
    assert run.printed()[-2:] == ["stopping", "lane-anisora: stopped (exit code 0)"]
    assert list(run.folder.run.glob("*.pid")) == []
    assert read_ports(run.folder.root) == {}


async def test_everything_is_stopped_when_sigterm_comes_before_it_is_ready(run: Run) -> None:
    task = run.start(lambda _ports: POLITE)
    await until(lambda: run.folder.log_tail(LANE.process, since=0, lines=9) == ["up"])
    await _stop(task)
    assert "ready" not in run.printed()


async def test_reason_is_shown_when_a_process_keeps_dying(run: Run) -> None:
    task = run.start(lambda _ports: DOOMED)
    await until(lambda: "    the reason why" in run.printed())
    await _stop(task)


async def test_other_ports_are_picked_when_one_is_lost_to_another_program(run: Run, admission: Served) -> None:
    _make_ready(admission)
    admission.script.snapshot.lanes[0].warm = False
    with socket.socket() as thief:

        def code_of(ports: Ports) -> str:
            if len(run.plans) == 1:
                thief.bind(("127.0.0.1", ports.by_process[LANE.process]))
                return DOOMED
            return POLITE

        task = run.start(code_of)
        await until(lambda: len(run.plans) == 2)
        _make_ready(admission)
        await until(lambda: "ready" in run.printed())
        await _stop(task)
    assert run.plans[0] != run.plans[1]


async def test_nothing_is_started_when_a_default_port_is_taken(folder: DataFolder) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        taken = Listener(process="http-bridge", default=port, option="--http-port", named=None)
        with pytest.raises(CommandError, match=f"port {port}, the default of http-bridge, is taken.*--http-port"):
            await run_stack([taken], _no_plan, side_by_side=False, folder=folder, screen=Screen(Console(file=io.StringIO())))


def _no_plan(_ports: Ports) -> Plan:
    raise AssertionError
