"""A store that fails when a test says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from admission.store.access_memory import MemoryAccess
from admission.store.access_port import AdminChange, AuditEntry, Decide, Session
from admission.store.memory import MemoryStore
from admission.store.port import Batch, Pruned, Retention, StoreUnavailableError
from admission.store.rows import utc_now


class FailingStore(MemoryStore):
    """A MemoryStore whose disk is full while `fail_writes` is true: nothing is stored, reads go on."""

    fail_writes: bool = False

    def __init__(self, *, now: Callable[[], datetime] = utc_now) -> None:
        """Stores what it is given; `now` as for a MemoryStore."""
        super().__init__(now=now)
        self.access = _FailingAccess(self._enter, self._refuse, now)

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

    def _refuse(self) -> None:
        if self.fail_writes:
            msg = "the disk is full (a test says so)"
            raise StoreUnavailableError(msg)


class _FailingAccess(MemoryAccess):
    """Its part for access."""

    def __init__(self, enter: Callable[[], Awaitable[None]], refuse: Callable[[], None], now: Callable[[], datetime]) -> None:
        super().__init__(enter, now=now)
        self._refuse = refuse

    async def add_sessions(self, sessions: Sequence[Session]) -> None:
        self._refuse()
        await super().add_sessions(sessions)

    async def change_admin_session(self, token_sha256: str, decide: Decide) -> AdminChange:
        self._refuse()
        return await super().change_admin_session(token_sha256, decide)

    async def write_audit(self, new: Sequence[AuditEntry], details: Mapping[int, str]) -> tuple[int, ...]:
        self._refuse()
        return await super().write_audit(new, details)

    async def prune_audit(self, before: datetime | None, *, keep: int, limit: int) -> int:
        self._refuse()
        return await super().prune_audit(before, keep=keep, limit=limit)
