"""`make simulate SEEDS=a..b`: plays these histories; the first that fails prints its story and the command that replays it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.simulation.plan import Plan, Step
from tests.simulation.world import World, play, seams

_WORKERS = 2
_CHUNK = 50
# Every so many seeds are played twice: the same seed must be the same history.
_TWICE_EVERY = 50


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed whose history broke an invariant."""

    seed: int
    violations: tuple[str, ...]
    story: tuple[str, ...]

    def __str__(self) -> str:
        """The story, what broke, and how to see it again."""
        told = "\n".join((*self.story, "", *(f"VIOLATED  {text}" for text in self.violations[:5])))
        return f"{told}\n\nseed {self.seed}; replay it: make simulate SEEDS={self.seed}..{self.seed}\n"


def run(seeds: Iterable[int]) -> Failure | None:
    """Plays the histories; the first that fails."""
    with seams():
        for seed in seeds:
            world = play(seed)
            if not world.violations and seed % _TWICE_EVERY == 0:
                compare(world, play(seed))
            if world.violations:
                return failure(seed, world)
    return None


def compare(first: World, second: World) -> None:
    """Adds a violation unless both are the same history."""
    if first.digest != second.digest:
        pairs = zip(first.story, second.story, strict=False)
        differing = next((f"{one!r} and then {other!r}" for one, other in pairs if one != other), "not told in the story")
        first.checker.expect(False, f"the same seed is another history: {differing}")


def failure(seed: int, world: World) -> Failure:
    """What to tell about a history that failed."""
    return Failure(seed, tuple(world.violations), tuple(world.story))


def shrink(seed: int) -> Failure | None:
    """The history with as few steps as still break something; None when it breaks nothing."""
    with seams():
        world = play(seed)
        if not world.violations:
            return None
        steps, size = Plan.of(seed).steps, len(Plan.of(seed).steps)
        while size >= 1:
            shorter = next((one for one in _without(steps, size) if play(seed, one).violations), None)
            if shorter is None:
                size //= 2
            else:
                steps, size = shorter, min(size, max(1, len(shorter)))
        return failure(seed, play(seed, steps))


def _without(steps: tuple[Step, ...], size: int) -> Iterator[tuple[Step, ...]]:
    for first in range(0, len(steps), size):
        yield steps[:first] + steps[first + size :]


def main(arguments: list[str]) -> int:
    """Runs the seeds `a..b`, both included; 0 when all held."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("seeds", help="a..b, both included")
    parser.add_argument("--shrink", action="store_true", help="leave out every step that the failure does not need")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("..")
    seeds, began_s = range(int(first), int(last or first) + 1), time.monotonic()
    failed = _run_all(seeds)
    if failed is not None:
        told = shrink(failed.seed) if options.shrink else failed
        sys.stdout.write(str(told or failed))
        return 1
    sys.stdout.write(f"{len(seeds)} histories, no violation, {time.monotonic() - began_s:.0f} s\n")
    return 0


def _run_all(seeds: range) -> Failure | None:
    chunks = [seeds[first : first + _CHUNK] for first in range(0, len(seeds), _CHUNK)]
    if len(chunks) == 1:
        return run(chunks[0])
    with ProcessPoolExecutor(max_workers=_WORKERS) as pool:
        for failed in pool.map(run, chunks):
            if failed is not None:
                pool.shutdown(cancel_futures=True)
                return failed
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
