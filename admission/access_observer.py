"""Who is told what access decides, to count it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from admission.access_types import Verdict
    from admission.rates import RateKind


class AccessObserver(Protocol):
    """Is told on the event loop: quick, and never raises."""

    def rate_limited(self, kind: RateKind) -> None:
        """A call was refused because its rate is used up."""
        ...

    def admin_called(self, verdict: Verdict) -> None:
        """An admin call was decided; its answer follows when its audit entry is on disk."""
        ...

    def audit_not_written(self) -> None:
        """The store could not take entries of refused calls, or their numbers."""
        ...


class _Silent:
    """Counts nothing."""

    def rate_limited(self, kind: RateKind) -> None:
        """Nothing."""

    def admin_called(self, verdict: Verdict) -> None:
        """Nothing."""

    def audit_not_written(self) -> None:
        """Nothing."""


SILENT: AccessObserver = _Silent()
