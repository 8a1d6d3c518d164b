"""Access on a store in memory, with a clock that stands; writes are counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

import pytest

from admission.access import Access
from admission.access_types import AdminAnswer, AdminCall, AdminKey, Verdict
from admission.rates import RateKind
from admission.store.access_port import AuditEntry
from tests.harness.clock import FakeClock
from tests.harness.store import FailingStore

ADDRESS = "203.0.113.7"
HOUR = timedelta(hours=1)


def a_call(**fields: object) -> AdminCall:
    """A call with the right key, but for the given fields."""
    values: dict[str, object] = {
        "action": "admin_logs",
        "address": ADDRESS,
        "details": "",
        "key": AdminKey.RIGHT,
        "token": "",
        "idle_timeout": HOUR,
        "bad_keys_per_minute": 10,
    }
    return AdminCall(**(values | fields))  # type: ignore[arg-type]


class Told:
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.limited: list[RateKind] = []
        self.verdicts: list[Verdict] = []
        self.not_written = 0

    def rate_limited(self, kind: RateKind) -> None:
        self.limited.append(kind)

    def admin_called(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)

    def audit_not_written(self) -> None:
        self.not_written += 1


class CountingStore(FailingStore):
    """How many rows each transaction of the audit log wrote: new ones, and changed ones."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(now=lambda: clock.now().utc)
        self.writes: list[tuple[int, int]] = []
        write = self.access.write_audit

        async def counted(new: Sequence[AuditEntry], details: Mapping[int, str]) -> tuple[int, ...]:
            self.writes.append((len(new), len(details)))
            return await write(new, details)

        self.access.write_audit = counted  # type: ignore[method-assign]


class Rig:
    """Access, what it stands on, and short ways to ask it."""

    def __init__(self) -> None:
        self.clock, self.told = FakeClock(), Told()
        self.store = CountingStore(self.clock)
        self.access = self.another()

    def another(self) -> Access:
        """A second one on the same store, as after a restart."""
        return Access(store=self.store.access, clock=self.clock, observer=self.told)

    async def opened(self, **fields: object) -> str:
        """The token of a new admin session."""
        answer = await self.access.open_admin_session(a_call(**fields))
        assert answer.verdict is Verdict.GRANTED
        return answer.token

    async def by_key(self, key: AdminKey, **fields: object) -> AdminAnswer:
        """What a call with this key is told."""
        return await self.access.authorize_admin(a_call(key=key, **fields))

    async def by_token(self, token: str, **fields: object) -> Verdict:
        """What a call with this token is told."""
        return (await self.by_key(AdminKey.ABSENT, token=token, **fields)).verdict

    async def close(self, token: str, key: AdminKey = AdminKey.ABSENT) -> Verdict:
        """Ends the session."""
        return (await self.access.close_admin_session(a_call(key=key, token=token))).verdict

    async def log(self) -> list[tuple[str, bool, str]]:
        """Action, success and details of every entry, oldest first."""
        return [(entry.action, entry.success, entry.details) for entry in reversed(await self.access.audit(1000))]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    new = Rig()
    await new.store.open()
    yield new
    await new.access.close()
    await new.store.close()
