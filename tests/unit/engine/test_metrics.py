"""What admission tells of its decisions, its lanes and its store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from admission.core.lanes import Outcome, Work
from admission.core.tasks import Failure, FailureCode, MemoryRecord, Model, Stage
from admission.engine import Engine
from admission.engine_types import OverloadedError, RefusedError
from admission.fitting import fit_rules
from admission.metrics import catalogue
from admission.metrics.access import AccessMetrics
from admission.metrics.decisions import DecisionMetrics
from admission.metrics.state import StateCollector
from admission.store.port import StoreUnavailableError
from runtime.metrics.registry import Registry
from runtime.rules.catalogue import MODELS
from tests.harness.engine import Rig, settle
from tests.harness.metrics import Page, page_of

ANISORA = Model("anisora")
LANE = "lane-anisora"


class Counted(Rig):
    """An engine that is counted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.registry = Registry("admission")
        metrics = DecisionMetrics(self.registry, MODELS)
        AccessMetrics(self.registry)
        self.engine = Engine(store=self.store, clock=self.clock, objects=self.objects, fit_rules=fit_rules("A10G"), observer=metrics)
        self.registry.register(StateCollector(self.engine.snapshot))

    def page(self) -> Page:
        """What a scrape gives now."""
        return page_of(self.registry)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Counted]:
    """Serves."""
    rig = Counted(tmp_path)
    await rig.store.open()
    await rig.engine.start()
    rig.clock.advance(20)
    yield rig
    await rig.engine.stop()


def _work(task_id: str, attempt: int, outcome: Outcome) -> Work:
    return Work(task_id=task_id, attempt=attempt, stage=Stage.INFERENCE, progress=50, outcome=outcome)  # type: ignore[arg-type]


async def test_a_task_is_counted_from_acceptance_to_its_end(rig: Counted) -> None:
    lane = await rig.lane()
    first, second = [await rig.submit() for _ in range(2)]
    page = rig.page()
    assert page.value("admission_acceptances_total", model="anisora", lane_mode="dedicated") == 2
    assert page.value("admission_acceptance_wait_seconds_sum", model="anisora", lane_mode="dedicated") == 0
    assert page.value("admission_leases_total", lane=LANE, lane_mode="dedicated", model="anisora") == 1
    assert (page.value("admission_queue_tasks", model="anisora"), page.value("admission_running_tasks", model="anisora")) == (1, 1)
    assert page.value("admission_lane_leased", lane=LANE) == 1

    rig.clock.advance(8)
    await lane.finish(await lane.leased())
    await settle()
    page = rig.page()
    assert page.value("admission_task_ends_total", model="anisora", code="done") == 1
    assert page.value("admission_memory_records_total", lane=LANE, state="measured") == 1
    # The second waited for the first.
    assert page.value("admission_lease_wait_seconds_count", model="anisora", lane_mode="dedicated") == 2
    assert page.value("admission_lease_wait_seconds_sum", model="anisora", lane_mode="dedicated") == 8
    assert page.value("admission_retries_total", model="anisora") == 0
    assert page.value("admission_events_total", event="accepted") == 2
    for hidden in (first.task_id, second.task_id, "owner", "a boat"):
        assert hidden not in page.text


async def test_refusals_and_places_are_counted_when_the_waiting_room_is_full(rig: Counted) -> None:
    waiting = [rig.submit() for _ in range(26)]
    await settle()
    with pytest.raises(OverloadedError):
        await waiting[25]
    rig.clock.advance(12)
    page = rig.page()
    assert page.value("admission_degraded_requests", state="held") == page.value("admission_degraded_limit_requests") == 25
    assert page.value("admission_degraded_oldest_wait_seconds") == 12
    assert page.value("admission_degraded_wait_limit_seconds") == 30
    assert page.value("admission_rejections_total", model="anisora", cause="depth") == 1
    assert page.value("admission_fallback_active", model="anisora", reason="capacity") == 1
    assert page.value("admission_fallback_active", model="phr00t", reason="manual") == 0

    rig.clock.advance(18)
    rig.engine.tick()
    await settle()
    page = rig.page()
    assert page.value("admission_rejections_total", model="anisora", cause="wait") == 25
    assert page.value("admission_degraded_requests", state="held") == 0
    for one in waiting[:25]:
        with pytest.raises(OverloadedError):
            await one


async def test_request_that_fits_nowhere_is_counted_when_it_is_refused(rig: Counted) -> None:
    with pytest.raises(RefusedError):
        await rig.submit(width=2048, height=2048, num_frames=241)
    assert rig.page().value("admission_rejections_total", model="anisora", cause="vram_exceeded") == 1


async def test_wait_and_fallback_are_timed_when_a_lane_comes_back(rig: Counted) -> None:
    held = rig.submit()
    await settle()
    rig.clock.advance(7)
    await rig.lane()
    await held
    page = rig.page()
    assert page.value("admission_acceptance_wait_seconds_sum", model="anisora", lane_mode="dedicated") == 7
    assert page.value("admission_fallback_period_seconds_sum", model="anisora", reason="capacity") == 7
    assert page.value("admission_fallback_active", model="anisora", reason="capacity") == 0
    assert page.value("admission_ready_lanes", model="anisora", lane_mode="dedicated") == 1
    assert page.value("admission_lane_availability", lane=LANE, availability="ready") == 1
    assert page.value("admission_lane_availability", lane=LANE, availability="cold") == 0
    assert page.value("admission_lane_resident_model_info", lane=LANE, model="anisora") == 1


async def test_retry_is_counted_when_the_pipeline_is_lost_and_the_lease_returned(rig: Counted) -> None:
    lane = await rig.lane()
    await rig.submit()
    for code in (FailureCode.LANE_LOST, FailureCode.CANCELLED):
        task = await lane.leased()
        failure = Failure(code=code, message="Gone.")
        await lane.report(_work(task.task_id, task.attempt, Outcome(failure=failure, memory=MemoryRecord(unmeasured_reason="it died"))))
        await settle()
    page = rig.page()
    assert page.value("admission_lost_lanes_total", lane=LANE, model="anisora") == 1
    assert page.value("admission_returned_leases_total", lane=LANE, model="anisora") == 1
    assert page.value("admission_retries_total", model="anisora") == 2
    assert page.value("admission_leases_total", lane=LANE) == 3
    assert page.value("admission_memory_records_total", lane=LANE, state="unmeasured") == 2


async def test_series_of_a_lane_end_when_it_is_forgotten(rig: Counted) -> None:
    lane = await rig.lane()
    await lane.session.close()
    task = await rig.submit()
    await rig.engine.cancel(task.task_id)
    assert rig.page().value("admission_lane_warm", lane=LANE) == 1
    for _ in range(3):
        rig.clock.advance(25 * 3600)
        rig.engine.tick()
        await settle()
    page = rig.page()
    assert page.value("admission_events_total", event="lane_forgotten") == 1
    assert f'lane="{LANE}"' not in page.text


async def test_what_operators_said_is_told_when_they_said_it(rig: Counted) -> None:
    await rig.lane()
    await rig.engine.drain_lane(LANE, drained=True)  # type: ignore[arg-type]
    await rig.engine.set_fallback(ANISORA, enabled=True)
    await rig.engine.report_capacity(Model("phr00t"), denied_for_s=600, reason="no GPU in the region")
    page = rig.page()
    assert page.value("admission_lane_drained", lane=LANE) == 1
    assert page.value("admission_fallback_active", model="anisora", reason="manual") == 1
    assert page.value("admission_quota_denied", model="phr00t") == 1
    assert "region" not in page.text


async def test_retired_placements_are_told_when_a_lane_has_some(rig: Counted) -> None:
    await rig.lane()
    snapshot = rig.engine.snapshot()
    retired = replace(snapshot, lanes=tuple(replace(one, retired=((ANISORA, "resident"),)) for one in snapshot.lanes))
    registry = Registry("admission")
    registry.register(StateCollector(lambda: retired))
    assert page_of(registry).value("admission_lane_retired_placement_info", lane=LANE, model="anisora", placement="resident") == 1


async def test_commits_are_counted_when_the_store_takes_them_and_when_not(rig: Counted) -> None:
    await rig.lane()
    await settle()
    before = rig.page()
    rig.store.gate.clear()
    waiting = [rig.submit() for _ in range(5)]
    await settle()
    rig.store.gate.set()
    for one in waiting:
        await one
    page = rig.page()
    commits = page.total("admission_store_commit_seconds_count") - before.total("admission_store_commit_seconds_count")
    assert commits == page.total("admission_store_batch_decisions_count") - before.total("admission_store_batch_decisions_count")
    # All five came before the writer's turn.
    assert commits == 1
    assert page.total("admission_store_batch_decisions_sum") - before.total("admission_store_batch_decisions_sum") == 5

    rig.store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await rig.submit()
    rig.store.fail_writes = False
    assert rig.page().value("admission_store_failures_total") == 1


async def test_every_metric_of_the_catalogue_is_there_when_admission_has_just_started(rig: Counted) -> None:
    page = rig.page()
    assert {one.name.removesuffix("_total") for one in catalogue.ALL} <= set(page.families)
    assert page.value("admission_epoch") == 1
    # The first refusal is a rise, not a new series.
    assert page.value("admission_rejections_total", model="phr00t", cause="wait") == 0
