"""The bounds of the design, in one value; a test may shorten them, production does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number is the design's ("Vocabulary", "Routing", "Failures"); seconds and counts.

    Attributes:
        degraded_depth: places of the degraded queue, held requests and rescued tasks together.
        degraded_wait_s: longest wait of a held request.
        rescued_depth: places that rescued tasks may take of the degraded queue.
        rescue_after_s: an accepted task without a ready lane of its model is offered to the pool after this long.
        queue_depth: a model's own queue closes at this many waiting tasks ...
        queue_wait_s: ... or at this much predicted wait.
        lease_s: a lease lasts this long from the lane's last report.
        contact_s: a lane that is silent for longer is cold.
        unhealthy_s: a lane whose health fails for longer is unavailable.
        not_served_s: an accepted task that is still not started by then fails.
        render_deadline_s: least time that a render may take; the most is render_deadline_max_s.
        render_deadline_factor: allowed over the predicted time.
        render_grace_s: the lane enforces the deadline; admission gives up this much later, should the lane not have said so.
        max_lost_lanes: at this many lost lanes a task fails.
        report_interval_s: what lanes are told; well under the 5 s that the design allows.
        refusals_told_s: refusals are counted for so long and then recorded as one event, so that none is written by itself.
        lane_forgotten_s: a lane that was not in contact for so long is forgotten; names that rented machines made up do not pile up.
    """

    degraded_depth: int = 25
    degraded_wait_s: float = 30.0
    rescued_depth: int = 5
    rescue_after_s: float = 30.0
    queue_depth: int = 25
    queue_wait_s: float = 900.0
    lease_s: float = 30.0
    contact_s: float = 10.0
    unhealthy_s: float = 60.0
    not_served_s: float = 3600.0
    render_deadline_s: float = 900.0
    render_deadline_max_s: float = 3600.0
    render_deadline_factor: float = 1.5
    render_grace_s: float = 60.0
    max_lost_lanes: int = 3
    report_interval_s: float = 2.0
    refusals_told_s: float = 10.0
    lane_forgotten_s: float = 86_400.0
