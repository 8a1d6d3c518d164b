"""kill -9 and SIGSTOP of one process after the other, in a drawn order, under load; then everything that must be true is looked at."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.invariants import all_tasks, summary, violations, wait_for_files, wait_until_idle
from tests.chaos.load import Load
from tests.harness.light_stack import ALL, LANES, Exit, LightStack, signal_process

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
        callers: how many ask at a time.
        caller_pause_s: mean time between two requests of a caller.
    """

    kills: int
    stops: int
    pause_s: tuple[float, float]
    stop_s: tuple[tuple[int, float, float], ...]
    sweep_s: float
    callers: int = 6
    caller_pause_s: float = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is struck.

    Attributes:
        kill: kill -9, and whatever starts it again.
        pids: of what is stopped and continued; empty while it does not run.
    """

    name: str
    kill: Callable[[], Awaitable[object]]
    pids: Callable[[], Iterable[int]]


def targets_of(stack: LightStack) -> list[Target]:
    """Every process of the stack, its pipelines among them."""
    return [*(_process(stack, name) for name in ALL), *(_pipeline(stack, lane) for lane in LANES)]


async def storm(
    stack: LightStack,
    targets: Sequence[Target],
    of: Storm,
    rng: random.Random,
    report: Callable[[str], None],
    *,
    may_end: Callable[[Exit], bool] = lambda _: False,
) -> None:
    """Strikes, waits until the stack is idle, and fails with everything that is wrong then. `may_end`: of a process that nobody killed."""
    rounds: Counter[str] = Counter()
    async with Load(stack, rng, clients=of.callers, pause_s=of.caller_pause_s) as load:
        await asyncio.sleep(1.0)
        for target, is_kill in _plan(targets, of, rng):
            rounds["kills" if is_kill else "stops"] += 1
            if is_kill:
                # Sometimes two at once: neither tells anyone about the other.
                others = [rng.choice(targets)] if rng.random() < 0.15 else []
                await asyncio.gather(*(one.kill() for one in dict.fromkeys([target, *others])))
            else:
                await _stop(target, _duration(of, rng))
            await asyncio.sleep(rng.uniform(*of.pause_s))
        await load.stop()
        await wait_until_idle(stack)
        tasks = await all_tasks(stack)
        ended = [one for one in stack.unexpected_exits() if may_end(one)]
        report(summary("chaos", load.seen, tasks, **rounds, starts=sum(stack.starts().values()), ended_by_themselves=len(ended)))
        wrong = violations(load.seen, tasks) + await wait_for_files(stack, tasks, timeout_s=of.sweep_s)
    wrong += [f"{one} although nobody killed it" for one in stack.unexpected_exits() if not may_end(one)]
    assert not wrong, "\n".join([f"{len(wrong)} violations", *wrong[:60], stack.tails()])
    assert load.seen.accepted()


def seed(default: int) -> int:
    """What is drawn with: WARMLANE_CHAOS_SEED, if that is set."""
    return int(os.environ.get(_SEED, default))


def how_to_repeat(drawn_with: int) -> str:
    """What to say of a storm that failed."""
    return f"failed; repeat with {_SEED}={drawn_with}"


def _process(stack: LightStack, name: str) -> Target:
    async def kill() -> None:
        stack.kill(name)

    return Target(name=name, kill=kill, pids=lambda: _there(stack.pid(name)))


def _pipeline(stack: LightStack, lane: str) -> Target:
    async def kill() -> None:
        signal_process(stack.pipeline_pid(lane), signal.SIGKILL)

    return Target(name=f"pipeline of {lane}", kill=kill, pids=lambda: _there(stack.pipeline_pid(lane)))


def _there(pid: int | None) -> list[int]:
    return [] if pid is None else [pid]


def _plan(targets: Sequence[Target], of: Storm, rng: random.Random) -> Iterator[tuple[Target, bool]]:
    """Every target in turn, each turn in another order; kills and stops mixed."""
    kinds = [True] * of.kills + [False] * of.stops
    rng.shuffle(kinds)
    bags: dict[bool, list[Target]] = {True: [], False: []}
    for is_kill in kinds:
        if not bags[is_kill]:
            bags[is_kill] = rng.sample(targets, len(targets))
        yield bags[is_kill].pop(), is_kill


async def _stop(target: Target, seconds: float) -> None:
    pids = list(target.pids())
    for pid in pids:
        signal_process(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        for pid in pids:
            signal_process(pid, signal.SIGCONT)


def _duration(of: Storm, rng: random.Random) -> float:
    _, least, most = rng.choices(of.stop_s, weights=[weight for weight, _, _ in of.stop_s])[0]
    return rng.uniform(least, most)
