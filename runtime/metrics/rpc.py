"""Counts the calls that a gRPC server answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from runtime.metrics.definition import counter, histogram

if TYPE_CHECKING:
    import grpc
    from prometheus_client import CollectorRegistry

REQUESTS = counter(
    "grpc_requests_total",
    "Calls of this server's methods that ended, by status; CANCELLED: the caller went away or its time was over. "
    "Names that no service has are not counted.",
    "method",
    "code",
)
SECONDS = histogram(
    "grpc_request_seconds",
    "Seconds from a call's arrival to its end; a stream lasts as long as somebody watches.",
    "method",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0),
)

ALL = (REQUESTS, SECONDS)


class RpcMetrics:
    """Implements `runtime.rpc.RpcObserver`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """In this registry."""
        self._requests = REQUESTS.counter(registry)
        self._seconds = SECONDS.histogram(registry)

    def method(self, name: str) -> Callable[[grpc.StatusCode, float], None]:
        """What to call when a call of this method ended, with its status and the seconds that it took."""
        # Here, as who only reads definitions needs no gRPC.
        from grpc import StatusCode

        method, ok = name.removeprefix("/"), StatusCode.OK
        labels, answered = (method,), (method, "OK")
        add, observe = self._requests.add, self._seconds.observe

        def ended(code: grpc.StatusCode, seconds: float) -> None:
            # Most calls are answered, and an enum takes longer to say its name than the counter takes to count.
            add(answered if code is ok else (method, code.name))
            observe(seconds, labels)

        return ended
