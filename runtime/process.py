"""How a process learns that it shall stop."""

from __future__ import annotations

import asyncio
import signal


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
