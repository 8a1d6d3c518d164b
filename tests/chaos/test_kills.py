"""kill -9 and SIGSTOP of every process in turn, under load: every accepted task ends, none has two results."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.chaos.storm import Storm, Target, how_to_repeat, seed, storm, targets_of
from tests.harness.light_stack import ADMISSION, Exit, LightStack
from tests.harness.postgresql import PostgresqlServer, running_server

SHORT = Storm(kills=6, stops=2, pause_s=(1.0, 2.0), stop_s=((100, 1.0, 2.0),), sweep_s=15.0)
# One stop in ten is longer than a lease.
LONG = Storm(kills=200, stops=40, pause_s=(1.5, 3.5), stop_s=((70, 1.0, 4.0), (20, 8.0, 14.0), (10, 31.0, 40.0)), sweep_s=60.0)
# Many callers, so that the server is often killed in the middle of a commit.
ON_POSTGRESQL = Storm(
    kills=70, stops=14, pause_s=(1.5, 3.5), stop_s=((70, 1.0, 4.0), (30, 8.0, 14.0)), sweep_s=60.0, callers=16, caller_pause_s=0.3
)
_MOST_AWAY_S = 4.0
# In the last words of an admission that begins anew for its database: that is away, another one rules, or a commit was stored after all.
_REASONS_TO_END = ("the database cannot be used now", "epoch", "commit was in doubt")

Report = Callable[[str], None]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Says a line whether output is captured or not."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}")  # noqa: T201 - figures that are read in the run's output

    return say


async def _run(
    stack: LightStack,
    of: Storm,
    drawn_with: int,
    report: Report,
    *,
    beside: Sequence[Target] = (),
    may_end: Callable[[Exit], bool] = lambda _: False,
) -> None:
    """`beside`: what is struck with the stack's own processes."""
    try:
        await asyncio.to_thread(stack.__enter__)
        await storm(stack, [*targets_of(stack), *beside], of, _drawn(drawn_with), report, may_end=may_end)
    except BaseException:
        report(how_to_repeat(drawn_with))
        raise
    finally:
        await asyncio.to_thread(stack.stop)


def _drawn(drawn_with: int) -> random.Random:
    return random.Random(drawn_with)  # noqa: S311 - the same choices again from the same seed; no secret


@pytest.mark.timeout(150)
async def test_every_accepted_task_ends_once_when_processes_are_killed_and_stopped(tmp_path: Path, report: Report) -> None:
    await _run(LightStack(tmp_path), SHORT, seed(3), report)


@pytest.mark.long
@pytest.mark.timeout(2400)
async def test_every_accepted_task_ends_once_when_processes_are_killed_200_times(tmp_path: Path, report: Report) -> None:
    await _run(LightStack(tmp_path), LONG, seed(300), report)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_every_accepted_task_ends_once_when_postgresql_is_killed_and_stopped_with_the_others(tmp_path: Path, report: Report) -> None:
    drawn_with = seed(7)
    with running_server() as server:
        stack = LightStack(tmp_path, environment={"WARMLANE_DATABASE_URL": server.create_database()})
        server_too = [_postgresql(server, _drawn(drawn_with))]
        await _run(stack, ON_POSTGRESQL, drawn_with, report, beside=server_too, may_end=_ended_for_the_database)
        # An admission may end with a sentence about its database, and begins anew from there; never because of a bug.
        log = stack.log(ADMISSION)
        assert "admission_failed" not in log
        said = [line for line in log.splitlines() if line.startswith("admission: ")]
        assert [line for line in said if not any(reason in line for reason in _REASONS_TO_END)] == []


def _ended_for_the_database(one: Exit) -> bool:
    return one.name == ADMISSION and one.code == 1


def _postgresql(server: PostgresqlServer, rng: random.Random) -> Target:
    async def kill() -> None:
        away_s = rng.uniform(0.0, _MOST_AWAY_S)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(away_s)
        await asyncio.to_thread(server.start)

    return Target(name="postgresql", kill=kill, pids=lambda: [one.pid for one in server.processes()])
