"""What the processes that serve have in common: how they learn that they shall stop, and how seldom they look for garbage."""

from __future__ import annotations

import asyncio
import signal

# A call makes a few hundred objects and no cycles, so collections find nothing: with Python's thresholds (700, 10, 10) they take about a
# quarter of the time under load (benchmarks/admission_speed.py), with these a few percent, for a few MiB.
GC_THRESHOLDS = (20_000, 50, 100)


def stop_event() -> asyncio.Event:
    """An event of the running loop that SIGTERM or SIGINT sets. Call it early: before that, the signals end the process at once."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


async def wait_for_stop_signal() -> None:
    """Returns when SIGTERM or SIGINT came."""
    await stop_event().wait()
