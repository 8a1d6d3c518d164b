"""What happens to admission itself: it was started, its store is slow, time passes."""

from __future__ import annotations

from admission.core.events import AdmissionStarted, StoreSlowed, TimePassed
from admission.core.state import Turn
from admission.core.tasks import Event


def hear(turn: Turn, event: AdmissionStarted | StoreSlowed | TimePassed) -> None:
    """Records it; nothing is decided by it. What time brings was looked at before."""
    match event:
        case AdmissionStarted(epoch=epoch):
            turn.record(Event(event_type="admission_started", created_at=turn.now.utc, value=str(epoch)))
        case StoreSlowed(seconds=seconds):
            turn.record(Event(event_type="store_slow", created_at=turn.now.utc, value=f"{seconds:.3f}"))
        case TimePassed():
            pass
