"""What operators say: a lane gets no more work, a model goes to the pool, the quota for a model's lanes is denied."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from admission.core import leases
from admission.core.availability import refresh
from admission.core.commands import PersistLane, PersistPolicy
from admission.core.deadlines import Due
from admission.core.events import CapacityReported, FallbackSet, LaneDrainSet
from admission.core.lanes import ModelPolicy
from admission.core.state import Turn
from admission.core.tasks import Event, LaneId, Model


def restore(turn: Turn, policy: ModelPolicy) -> None:
    """Takes over what was said before the restart; a denial that ended meanwhile is over."""
    turn.state.policies[policy.model] = policy
    if policy.quota_denied_until is not None:
        _deny_until(turn, policy.model, turn.now.monotonic_of(policy.quota_denied_until))


def hear(turn: Turn, event: LaneDrainSet | FallbackSet | CapacityReported) -> None:
    """Takes in what was said; saying it again changes nothing."""
    match event:
        case LaneDrainSet():
            _set_drain(turn, event.lane_id, drained=event.drained)
        case FallbackSet():
            _set_fallback(turn, event.model, enabled=event.enabled)
        case CapacityReported():
            _report_capacity(turn, event.model, event.denied_for_s, event.reason)


def _set_drain(turn: Turn, lane_id: LaneId, *, drained: bool) -> None:
    """The lane gets no more work, or work again; what it works on goes on."""
    lane = turn.state.lanes.get(lane_id)
    if lane is None or lane.is_drained is drained:
        return
    lane.is_drained = drained
    turn.emit(PersistLane(lane=lane.known))
    turn.record(Event(event_type="lane_drained" if drained else "lane_resumed", created_at=turn.now.utc, lane_id=lane_id))
    leases.send_new_wish(turn, lane)
    refresh(turn, lane)


def _set_fallback(turn: Turn, model: Model, *, enabled: bool) -> None:
    """The model's requests go to the pool, or to its own lanes again. Those finish what they work on."""
    policy = turn.state.policy(model)
    if policy.is_fallback_manual is enabled:
        return
    _keep(turn, replace(policy, is_fallback_manual=enabled))
    turn.record(Event(event_type="fallback_set", created_at=turn.now.utc, model=model, value="on" if enabled else "off"))
    for lane in turn.state.lanes.values():
        if model in lane.spec.models:
            refresh(turn, lane)


def _report_capacity(turn: Turn, model: Model, denied_for_s: float | None, reason: str) -> None:
    """The quota is denied for so long from now, or granted."""
    policy = turn.state.policy(model)
    if denied_for_s is None:
        if policy.quota_denied_until is not None:
            _grant(turn, model, reason or "reported")
        return
    until = turn.now.utc + timedelta(seconds=denied_for_s)
    if not turn.state.is_quota_denied(model, turn.now_s):
        turn.record(Event(event_type="quota_denied", created_at=turn.now.utc, model=model, value=f"{denied_for_s:g}", reason=reason))
    _keep(turn, replace(policy, quota_denied_until=until, quota_reason=reason))
    _deny_until(turn, model, turn.now_s + denied_for_s)


def expire_quota(turn: Turn, model: Model) -> None:
    """A denial may have run out."""
    until_s = turn.state.quota_until_s.get(model)
    if until_s is not None and turn.now_s >= until_s:
        _grant(turn, model, "the report expired")


def _deny_until(turn: Turn, model: Model, until_s: float) -> None:
    turn.state.quota_until_s[model] = until_s
    turn.state.deadlines.set(until_s, Due.QUOTA, model)


def _grant(turn: Turn, model: Model, reason: str) -> None:
    turn.state.quota_until_s.pop(model, None)
    _keep(turn, replace(turn.state.policy(model), quota_denied_until=None, quota_reason=""))
    turn.record(Event(event_type="quota_restored", created_at=turn.now.utc, model=model, reason=reason))


def _keep(turn: Turn, policy: ModelPolicy) -> None:
    turn.state.policies[policy.model] = policy
    turn.emit(PersistPolicy(policy=policy))
