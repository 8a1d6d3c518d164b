"""Which admission rules: the epoch of this one, and a look now and then whether it is still the newest."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from admission.store.port import StaleEpochError, Store, StoreUnavailableError

# How long an admission that another one replaced may go on answering reads.
_LOOK_S = 5.0


class Reign:
    """Begins with a claim. Whoever runs `watch` ends it by cancelling."""

    def __init__(self, store: Store) -> None:
        """Nothing is claimed yet. The store must be open by then."""
        self._store = store
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """Of this admission; 0 before `claim`."""
        return self._epoch

    async def claim(self) -> int:
        """Takes the next epoch, durably: from then on no other admission writes."""
        self._epoch = await self._store.claim_epoch()
        return self._epoch

    async def check(self) -> None:
        """Asks the store.

        Raises:
            StaleEpochError: another admission has replaced this one.
            StoreUnavailableError: that cannot be told now.
        """
        newest = await self._store.epoch()
        if newest != self._epoch:
            msg = f"epoch {self._epoch} rules no more: the newest is {newest}"
            raise StaleEpochError(msg)

    async def watch(self) -> None:
        """Raises StaleEpochError once another admission has replaced this one.

        Who has nothing to write would not notice otherwise, and would go on showing what is long past.
        """
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(StoreUnavailableError):
                await self.check()
