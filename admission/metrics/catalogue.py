"""What admission's metrics are."""

from __future__ import annotations

from runtime.metrics.definition import counter, gauge, histogram

_WAITS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_COMMITS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_PERIODS_S = (1.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
_DECISIONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

# Counted as it happens.

ACCEPTANCES = counter("admission_acceptances_total", "Tasks that were accepted, by the kind of lane for which.", "model", "lane_mode")
ACCEPTANCE_WAIT = histogram(
    "admission_acceptance_wait_seconds",
    "Seconds from a request's arrival to the decision that accepted it: 0 unless it was held. The commit comes on top.",
    "model",
    "lane_mode",
    buckets=_WAITS_S,
)
REJECTIONS = counter(
    "admission_rejections_total",
    "Valid requests that were not taken, by cause: depth (25 waited already), wait (held for 30 s), vram_exceeded, deadline_unreachable.",
    "model",
    "cause",
)
LEASES = counter("admission_leases_total", "Attempts that were given to a lane.", "lane", "lane_mode", "model")
LEASE_WAIT = histogram(
    "admission_lease_wait_seconds",
    "Seconds that an accepted task waited in its queue for the lease, since it was accepted or since its last attempt ended.",
    "model",
    "lane_mode",
    buckets=_WAITS_S,
)
RETRIES = counter("admission_retries_total", "Leases that were not the first of their task.", "model")
LOST_LANES = counter("admission_lost_lanes_total", "Attempts whose lane or pipeline process was lost under them.", "lane", "model")
RETURNED_LEASES = counter(
    "admission_returned_leases_total",
    "Attempts that ended through no fault of their own (a lane being stopped) and run again.",
    "lane",
    "model",
)
FALLBACKS = counter(
    "admission_fallbacks_total", "Attempts that the degraded pool took, by why not the model's own lanes.", "model", "reason"
)
FALLBACK_PERIOD = histogram(
    "admission_fallback_period_seconds",
    "How long a model's requests went the degraded way, told when that ended, by reason.",
    "model",
    "reason",
    buckets=_PERIODS_S,
)
ENDS = counter("admission_task_ends_total", "Tasks that ended: done, or the code of the failure (cancelled among them).", "model", "code")
MEMORY_RECORDS = counter(
    "admission_memory_records_total", "Memory records of attempts, measured or unmeasured; every attempt has exactly one.", "lane", "state"
)
EVENTS = counter("admission_events_total", "Events that were recorded, by the names of docs/events.md.", "event")
COMMIT = histogram("admission_store_commit_seconds", "Seconds of a transaction of the store.", buckets=_COMMITS_S)
BATCH = histogram("admission_store_batch_decisions", "Decisions that one transaction of the store made durable.", buckets=_DECISIONS)
STORE_FAILURES = counter("admission_store_failures_total", "Transactions that the store could not take: disk full, locked, away.")

RATE_LIMITED = counter(
    "admission_rate_limited_total",
    "Calls of bridges that were refused because a rate was used up: new_session, generation, bad_key, bad_admin_key.",
    "kind",
)
ADMIN_CALLS = counter("admission_admin_calls_total", "Calls of admin paths, by whether they were let in, or why not.", "verdict")
AUDIT_FAILURES = counter(
    "admission_audit_failures_total",
    "Times that the store could not take audit entries of refused calls, or their numbers: these calls were answered as unavailable.",
)

# Read from the state when somebody asks.

EPOCH = gauge("admission_epoch", "Number of this admission: the store gives the next one to the next.")
QUEUE = gauge("admission_queue_tasks", "Accepted tasks that wait in the model's queue.", "model")
QUEUE_LIMIT = gauge("admission_queue_limit_tasks", "At so many waiting tasks the model's queue is closed.", "model")
RUNNING = gauge("admission_running_tasks", "Tasks with a lease.", "model")
PREDICTED_WAIT = gauge(
    "admission_predicted_wait_seconds", "Predicted wait of a request that comes now; absent until a render was measured.", "model"
)
READY_LANES = gauge("admission_ready_lanes", "Lanes that can be given work of the model.", "model", "lane_mode")
FALLBACK = gauge(
    "admission_fallback_active", "1: a request of the model that comes now goes the degraded way, for this reason.", "model", "reason"
)
QUOTA_DENIED = gauge("admission_quota_denied", "1: lanes of the model cannot be started, as somebody reported.", "model")
DEGRADED = gauge("admission_degraded_requests", "Places taken in the degraded queue: held requests and rescued tasks.", "state")
DEGRADED_LIMIT = gauge("admission_degraded_limit_requests", "Places of the degraded queue.")
OLDEST_WAIT = gauge("admission_degraded_oldest_wait_seconds", "How long the oldest held request has waited; 0: none waits.")
WAIT_LIMIT = gauge("admission_degraded_wait_limit_seconds", "A held request that waited so long is refused.")
AVAILABILITY = gauge(
    "admission_lane_availability", "1 for what the lane is: ready, cold or unavailable.", "lane", "lane_mode", "availability"
)
LANE_WARM = gauge("admission_lane_warm", "1: the lane said last that its model is warm.", "lane", "lane_mode")
LANE_LEASED = gauge("admission_lane_leased", "1: the lane has a lease.", "lane", "lane_mode")
LANE_DRAINED = gauge("admission_lane_drained", "1: an operator drains the lane.", "lane", "lane_mode")
REPORT_AGE = gauge(
    "admission_lane_report_age_seconds",
    "Since when nothing was heard of the lane; absent before its first report here.",
    "lane",
    "lane_mode",
)
RESIDENT = gauge("admission_lane_resident_model_info", "1: the lane said last that this model is loaded.", "lane", "lane_mode", "model")
RETIRED = gauge(
    "admission_lane_retired_placement_info",
    "1: the placement ran out of memory too often there and is not used until the lane is restarted.",
    "lane",
    "lane_mode",
    "model",
    "placement",
)

COUNTED = (
    ACCEPTANCES, ACCEPTANCE_WAIT, REJECTIONS, LEASES, LEASE_WAIT, RETRIES, LOST_LANES, RETURNED_LEASES, FALLBACKS, FALLBACK_PERIOD, ENDS,
    MEMORY_RECORDS, EVENTS, COMMIT, BATCH, STORE_FAILURES, RATE_LIMITED, ADMIN_CALLS, AUDIT_FAILURES,
)  # fmt: skip
READ = (
    EPOCH, QUEUE, QUEUE_LIMIT, RUNNING, PREDICTED_WAIT, READY_LANES, FALLBACK, QUOTA_DENIED, DEGRADED, DEGRADED_LIMIT, OLDEST_WAIT,
    WAIT_LIMIT, AVAILABILITY, LANE_WARM, LANE_LEASED, LANE_DRAINED, REPORT_AGE, RESIDENT, RETIRED,
)  # fmt: skip
ALL = (*COUNTED, *READ)
