"""kill -9 and SIGSTOP of every process in turn, under load: every accepted task ends, none has two results."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.invariants import all_tasks, summary, violations, wait_for_files, wait_until_idle
from tests.chaos.load import Load
from tests.harness.light_stack import ALL, LANES, LightStack, signal_process

_PIPELINES = tuple(f"pipeline of {lane}" for lane in LANES)
_TARGETS = (*ALL, *_PIPELINES)
_SEED = "WARMLANE_CHAOS_SEED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What is done to the stack.

    Attributes:
        kills: rounds of kill -9.
        stops: rounds of SIGSTOP and SIGCONT.
        pause_s: least and most time between rounds.
        stop_s: for each kind of stop, how often of 100 times, the least and the most time.
        sweep_s: objects that nothing references are gone by then.
    """

    kills: int
    stops: int
    pause_s: tuple[float, float]
    stop_s: tuple[tuple[int, float, float], ...]
    sweep_s: float


SHORT = Storm(kills=6, stops=2, pause_s=(1.0, 2.0), stop_s=((100, 1.0, 2.0),), sweep_s=15.0)
# One stop in ten is longer than a lease.
LONG = Storm(kills=200, stops=40, pause_s=(1.5, 3.5), stop_s=((70, 1.0, 4.0), (20, 8.0, 14.0), (10, 31.0, 40.0)), sweep_s=60.0)


async def _storm(stack: LightStack, storm: Storm, rng: random.Random, report: Callable[[str], None]) -> None:
    rounds: Counter[str] = Counter()
    async with Load(stack, rng) as load:
        await asyncio.sleep(1.0)
        for target, is_kill in _plan(storm, rng):
            rounds["kills" if is_kill else "stops"] += 1
            if is_kill:
                _kill(stack, target)
                if rng.random() < 0.15:
                    # Two at once: neither tells anyone about the other.
                    _kill(stack, rng.choice(_TARGETS))
            else:
                await _stop(stack, target, _duration(storm, rng))
            await asyncio.sleep(rng.uniform(*storm.pause_s))
        await load.stop()
        await wait_until_idle(stack)
        tasks = await all_tasks(stack)
        report(summary("chaos", load.seen, tasks, **rounds, starts=sum(stack.starts().values())))
        wrong = violations(load.seen, tasks) + await wait_for_files(stack, tasks, timeout_s=storm.sweep_s)
    wrong += [f"{one} although nobody killed it" for one in stack.unexpected_exits()]
    assert not wrong, "\n".join([f"{len(wrong)} violations", *wrong[:60], stack.tails()])
    assert load.seen.accepted()


def _plan(storm: Storm, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """Every target in turn, each turn in another order; kills and stops mixed."""
    kinds = [True] * storm.kills + [False] * storm.stops
    rng.shuffle(kinds)
    bags: dict[bool, list[str]] = {True: [], False: []}
    for is_kill in kinds:
        if not bags[is_kill]:
            bags[is_kill] = rng.sample(_TARGETS, len(_TARGETS))
        yield bags[is_kill].pop(), is_kill


def _pid(stack: LightStack, target: str) -> int | None:
    return stack.pid(target) if target in ALL else stack.pipeline_pid(target.removeprefix("pipeline of "))


def _kill(stack: LightStack, target: str) -> None:
    if target in ALL:
        stack.kill(target)
    else:
        signal_process(_pid(stack, target), signal.SIGKILL)


async def _stop(stack: LightStack, target: str, seconds: float) -> None:
    pid = _pid(stack, target)
    signal_process(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        signal_process(pid, signal.SIGCONT)


def _duration(storm: Storm, rng: random.Random) -> float:
    _, least, most = rng.choices(storm.stop_s, weights=[weight for weight, _, _ in storm.stop_s])[0]
    return rng.uniform(least, most)


async def _run(folder: Path, storm: Storm, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    def report(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line} (seed {seed})")  # noqa: T201

    stack = LightStack(folder)
    try:
        await asyncio.to_thread(stack.__enter__)
        await _storm(stack, storm, random.Random(seed), report)  # noqa: S311
    except BaseException:
        report(f"failed; repeat with {_SEED}={seed}")
        raise
    finally:
        await asyncio.to_thread(stack.stop)


def _seed(default: int) -> int:
    return int(os.environ.get(_SEED, default))


@pytest.mark.timeout(150)
async def test_every_accepted_task_ends_once_when_processes_are_killed_and_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await _run(tmp_path, SHORT, _seed(3), capsys)


@pytest.mark.long
@pytest.mark.timeout(2400)
async def test_every_accepted_task_ends_once_when_processes_are_killed_200_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await _run(tmp_path, LONG, _seed(300), capsys)
