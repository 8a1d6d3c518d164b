"""Work that blocks, in few threads that callers share fairly: whoever brings much of it waits for itself, not everyone for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from http_bridge.fair_places import FairPlaces

_T = TypeVar("_T")


class FairThreads:
    """Belongs to one event loop; `close` ends it."""

    def __init__(self, threads: int) -> None:
        """Threads are started when they are needed."""
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="images")
        self._places = FairPlaces(threads)

    async def all(self, name: str, pieces: Sequence[Callable[[], _T]]) -> list[_T]:
        """The results of all pieces, in their order; each waits for a turn of this name. When cancelled, pieces that have none are left."""
        tasks = [asyncio.create_task(self._one(name, piece), name="check-image") for piece in pieces]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def close(self) -> None:
        """Nothing more is begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _one(self, name: str, piece: Callable[[], _T]) -> _T:
        await self._places.take(name)
        try:
            working = asyncio.get_running_loop().run_in_executor(self._threads, piece)
        except BaseException:
            self._places.give_back(name)
            raise
        # Nothing can stop a thread: its place is free when it ends, not when the caller leaves.
        working.add_done_callback(lambda _: self._places.give_back(name))
        return await asyncio.shield(working)
