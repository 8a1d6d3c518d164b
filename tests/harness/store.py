"""A store that fails when a test says so."""

from __future__ import annotations

from admission.store.memory import MemoryStore
from admission.store.port import Batch, Pruned, Retention, Session, StoreUnavailableError


class FailingStore(MemoryStore):
    """A MemoryStore whose disk is full while `fail_writes` is true: nothing is stored, reads go on."""

    fail_writes: bool = False

    async def claim_epoch(self) -> int:
        """Takes the next controller epoch, or fails."""
        self._refuse()
        return await super().claim_epoch()

    async def write(self, epoch: int, batch: Batch) -> int:
        """Stores the batch, or fails."""
        self._refuse()
        return await super().write(epoch, batch)

    async def prune(self, epoch: int, retention: Retention) -> Pruned:
        """Removes what is too old, or fails."""
        self._refuse()
        return await super().prune(epoch, retention)

    async def add_session(self, session: Session) -> None:
        """Stores a session, or fails."""
        self._refuse()
        await super().add_session(session)

    def _refuse(self) -> None:
        if self.fail_writes:
            msg = "the disk is full (a test says so)"
            raise StoreUnavailableError(msg)
