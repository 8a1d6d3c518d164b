"""The object store of a history: which files there are and who wrote them. It stands in for obstore, whose threads know no virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from obstore.exceptions import BaseError


@dataclass(frozen=True, slots=True)
class Writer:
    """Which lane's which process wrote a file."""

    lane_id: str
    boot_id: str


class ModelObjects:
    """Keys and their writers. `on_removed` is called before a file goes."""

    def __init__(self, random: Random) -> None:
        self.files: dict[str, Writer] = {}
        self.on_removed: Callable[[str], None] = lambda key: None
        self._random = random

    async def found(self, prefix: str) -> list[dict[str, str]]:
        """As of obstore's list."""
        await self._way()
        return [{"path": key} for key in self.files if key.startswith(prefix)]

    async def remove(self, keys: Sequence[str]) -> None:
        """As of obstore's delete: what is not there is no error."""
        await self._way()
        for key in keys:
            if key in self.files:
                self.on_removed(key)
                del self.files[key]

    async def _way(self) -> None:
        await asyncio.sleep(self._random.random() * 0.5)
        if self._random.random() < 0.02:
            raise OSError("the object store is away")


class _Listing:
    def __init__(self, objects: ModelObjects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    async def collect_async(self) -> list[dict[str, str]]:
        return await self._objects.found(self._prefix)


class _Exceptions:
    BaseError = BaseError


class Obstore:
    """The functions of the obstore module that admission's sweeper calls."""

    exceptions = _Exceptions

    @staticmethod
    def list(objects: ModelObjects, prefix: str) -> _Listing:
        """As of obstore."""
        return _Listing(objects, prefix)

    @staticmethod
    async def delete_async(objects: ModelObjects, keys: Sequence[str]) -> None:
        """As of obstore."""
        await objects.remove(keys)
