"""`make simulate SEEDS=a..b`: seeded histories of the core; a failing seed prints its story and the command that replays it."""

from __future__ import annotations

import sys

from tests.harness.histories import History


def main(seeds: str) -> int:
    """Runs the seeds `a..b`, both included; 0 when all held."""
    first, _, last = seeds.partition("..")
    numbers = range(int(first), int(last or first) + 1)
    for seed in numbers:
        history = History(seed)
        try:
            history.run()
        except Exception as error:
            story = "\n".join(history.story)
            sys.stdout.write(f"{story}\n\nseed {seed}: {error!r}\nreplay it: make simulate SEEDS={seed}..{seed}\n")
            return 1
    sys.stdout.write(f"{len(numbers)} histories, no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
