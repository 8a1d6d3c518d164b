"""The names of spans and attributes, all of them, so that dashboards and tests know what there can be."""

from __future__ import annotations

# Spans of admission.
HELD = "held"
QUEUE_WAIT = "queue wait"
DISPATCH = "dispatch"


def attempt(number: int) -> str:
    """Of an attempt; a task has three that are lost at most, and seldom a second."""
    return f"attempt {number}"


# Spans of lanes, beside those of `runtime.lane.parts`.
RENDER = "render"
CLEANUP = "cleanup"

# Attributes as OpenTelemetry's semantic conventions name them.
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
RPC_SYSTEM = "rpc.system.name"
RPC_STATUS = "rpc.response.status_code"

# Our own.
PREFIX = "warmlane."
TASK = f"{PREFIX}task"
ATTEMPT = f"{PREFIX}attempt"
LANE = f"{PREFIX}lane"
LANE_MODE = f"{PREFIX}lane_mode"
MODEL = f"{PREFIX}model"
FALLBACK_REASON = f"{PREFIX}fallback_reason"
DECISION = f"{PREFIX}decision"
CODE = f"{PREFIX}code"
END = f"{PREFIX}end"
TRY = f"{PREFIX}try"
MEMORY = f"{PREFIX}memory."
UNMEASURED = f"{MEMORY}unmeasured_reason"
