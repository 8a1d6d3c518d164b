"""Fit in the shell: a refusal reaches its caller at once, stores nothing, and costs little; what was learned is there after a restart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from admission.config import AdmissionSettings
from admission.core import refusals
from admission.core.lanes import Outcome, Work
from admission.core.learned import Place, everywhere
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.tasks import Model, Result, Stage
from admission.core.time import Now
from admission.engine_types import RefusedError
from admission.fitting import fit_rules, shape_key
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from tests.harness.engine import PATIENCE_S, LaneDouble, Rig, settle
from tests.harness.memory import MIB, RESIDENT, record, worker
from tests.harness.tasks import START

ANISORA = Model("anisora")
HUGE: dict[str, Any] = {"width": 1024, "height": 1024, "num_frames": 81}


async def measured_lane(rig: Rig, budget_mib: int) -> LaneDouble:
    """A lane that has said what it has."""
    lane = LaneDouble(rig.engine.open_lane(), "lane-anisora", ANISORA)
    lane.spec = replace(lane.spec, memory=worker(budget_mib, ANISORA))
    await lane.report()
    return lane


async def test_caller_is_refused_at_once_when_the_store_does_not_write(rig: Rig) -> None:
    await measured_lane(rig, 700)
    await settle()
    written = len(rig.store.batches)
    rig.store.gate.clear()
    with pytest.raises(RefusedError) as caught:
        await asyncio.wait_for(rig.submit(**HUGE), PATIENCE_S)
    assert caught.value.refusal.limit_bytes == 700 * MIB
    rig.store.gate.set()
    await settle()
    assert len(rig.store.batches) == written


async def test_refusal_is_not_remembered_under_its_key_when_a_larger_lane_comes(rig: Rig) -> None:
    await measured_lane(rig, 700)
    with pytest.raises(RefusedError):
        await rig.submit_keyed("key", **HUGE)
    await measured_lane(rig, 20_000)
    assert not (await asyncio.wait_for(rig.submit_keyed("key", **HUGE), PATIENCE_S)).is_duplicate


async def test_lease_is_offered_with_its_placement_when_the_lane_has_said_what_it_has(rig: Rig) -> None:
    lane = await measured_lane(rig, 700)
    rig.submit()
    while (wish := await lane.wish()).wish.lease is None:
        pass
    # 256x256x9 are 768 tokens, 75 MiB.
    assert (wish.wish.lease.placement, wish.wish.lease.predicted_peak_bytes) == (RESIDENT, 675 * MIB)


async def test_what_was_learned_is_there_when_admission_starts_again(rig: Rig) -> None:
    lane = await measured_lane(rig, 700)
    rig.submit()
    task = await lane.leased()
    outcome = Outcome(result=_result(task.task_id), memory=record(RESIDENT, peaks={"denoise": 690 * MIB}), render_s=76.8)
    await lane.report(Work(task_id=task.task_id, attempt=1, stage=Stage.ENCODING, progress=99, outcome=outcome))
    await settle()
    await rig.restart()
    learned = {one.place: one for one in await rig.store.learned()}
    assert set(learned) == {everywhere(ANISORA), Place("Simulated 1 GiB", ANISORA, RESIDENT)}
    with pytest.raises(RefusedError):
        # The lane is known from before.
        await rig.submit(**HUGE)
    predicted = [one.predicted_s for one in rig.engine.model_limits(ANISORA).sizes if (one.width, one.height) == (512, 512)]
    # 500 MiB are 5120 tokens, 5 latent frames of 1024, at a tenth of a second.
    assert predicted == [pytest.approx(512.0)]


def _result(task_id: str) -> Result:
    key = f"results/{task_id}/1/"
    return Result(
        video_key=key + "video.mp4",
        media_type="video/mp4",
        size_bytes=1,
        sha256="0" * 64,
        preview_key=key + "preview.jpg",
        width=256,
        height=256,
        num_frames=9,
        fps=16,
    )


@given(
    model=st.sampled_from(["anisora", "phr00t"]),
    width=st.integers(256, 2048),
    height=st.integers(256, 2048),
    frames=st.integers(1, 241),
)
def test_shape_is_that_of_the_effective_request(model: str, width: int, height: int, frames: int) -> None:
    request = check_request({"model": model, "prompt": "a boat", "width": width, "height": height, "num_frames": frames})
    used = effective(request, seed=1)
    assert shape_key(request) == (used.width, used.height, used.num_frames, used.mode)


def test_rules_are_those_of_the_catalogue_and_of_the_named_gpu() -> None:
    rules = fit_rules("A10G")
    assert rules.baseline is not None
    assert rules.baseline.limits.gpu == "NVIDIA A10G"
    assert {ladder.model for ladder in rules.baseline.ladders} == {"anisora", "phr00t"}
    assert (rules.frame_multiples, rules.max_frames) == ({"anisora": 8, "phr00t": 4}, 241)
    assert rules.modes[Model("phr00t")] == ("t2v", "i2v", "first_last_frame")


def test_common_sizes_fit_the_baseline_and_the_largest_request_does_not() -> None:
    core = QueueState(Limits(), [Model("anisora"), Model("phr00t")], Now(monotonic_s=0.0, utc=START), fit_rules("A10G"))
    for model in (Model("anisora"), Model("phr00t")):
        sizes = {(one.width, one.height): one for one in refusals.limits(core.state, model).sizes}
        assert min(sizes[480, 832].max_num_frames, sizes[720, 1280].max_num_frames) >= 81
        assert refusals.refusal(core.state, model, (2048, 2048, 241, "t2v")) is not None


def test_process_says_what_may_be_named_when_the_baseline_gpu_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMLANE_BASELINE_GPU", "RTX")
    with pytest.raises(ValidationError, match="A10G, T4"):
        AdmissionSettings()
