"""Counts what access decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from admission.access_types import Verdict
from admission.metrics import catalogue
from admission.rates import RateKind

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class AccessMetrics:
    """Implements `admission.access_observer.AccessObserver`. Every series begins with 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """In this registry."""
        self._rate_limited = catalogue.RATE_LIMITED.counter(registry)
        self._admin_calls = catalogue.ADMIN_CALLS.counter(registry)
        self._audit_failures = catalogue.AUDIT_FAILURES.counter(registry)
        for kind in RateKind:
            self._rate_limited.add((kind,), 0)
        for verdict in Verdict:
            self._admin_calls.add((verdict,), 0)

    def rate_limited(self, kind: RateKind) -> None:
        """See `AccessObserver`."""
        self._rate_limited.add((kind,))

    def admin_called(self, verdict: Verdict) -> None:
        """See `AccessObserver`."""
        self._admin_calls.add((verdict,))

    def audit_not_written(self) -> None:
        """See `AccessObserver`."""
        self._audit_failures.add()
