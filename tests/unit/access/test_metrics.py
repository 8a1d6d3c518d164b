"""What is counted of access."""

from __future__ import annotations

import pytest

from admission.access import Access
from admission.access_types import AdminKey, Rate, RateLimitedError
from admission.metrics.access import AccessMetrics
from admission.rates import RateKind
from admission.store.port import StoreUnavailableError
from runtime.metrics.registry import Registry
from tests.harness.metrics import page_of
from tests.unit.access.conftest import Rig, a_call


async def test_refusals_and_verdicts_are_counted_when_calls_come(rig: Rig) -> None:
    registry = Registry("admission")
    access = Access(store=rig.store.access, clock=rig.clock, observer=AccessMetrics(registry))
    assert page_of(registry).value("admission_rate_limited_total", kind="generation") == 0
    assert page_of(registry).value("admission_admin_calls_total", verdict="session_expired") == 0
    rate = Rate(kind=RateKind.NEW_SESSION, subject="203.0.113.7", per_minute=1)
    access.count(rate)
    with pytest.raises(RateLimitedError):
        access.count(rate)
    for key in (AdminKey.RIGHT, AdminKey.WRONG, AdminKey.WRONG):
        await access.authorize_admin(a_call(key=key, bad_keys_per_minute=1))
    page = page_of(registry)
    assert page.value("admission_rate_limited_total", kind="new_session") == 1
    assert page.value("admission_rate_limited_total", kind="bad_admin_key") == 1
    verdicts = {name: page.value("admission_admin_calls_total", verdict=name) for name in ("granted", "key_invalid", "rate_limited")}
    assert verdicts == {"granted": 1, "key_invalid": 1, "rate_limited": 1}
    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await access.authorize_admin(a_call(key=AdminKey.WRONG, address="203.0.113.8"))
    assert page_of(registry).value("admission_audit_failures_total") == 1
    rig.store.fail_writes = False
    await access.close()
