"""GPU memory without a GPU: real pipeline processes with the tiny models, on a CPU whose budget admits either of them but not both."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from runtime.fit.cost import Shape, WorkerMemory
from runtime.fit.placement import PLACEMENTS
from runtime.fit.predict import peak_bytes
from runtime.lane.outcome import FailureCode, MemoryRecord, Outcome
from runtime.lane.state import Attempt
from runtime.lane.work import Order, WorkerSettings
from runtime.lane.worker import Worker
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.rules.parameters import to_parameters

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
MODELS = ("anisora", "phr00t")
SIZE = {"width": 256, "height": 256, "num_frames": 5, "mode": "t2v", "output_format": "webm"}
SHAPE = Shape(width=256, height=256, num_frames=5, mode="t2v")
PROMPT = "a tiny clip"
START_S = 120.0
RENDER_S = 300.0


@dataclass(slots=True)
class Pool:
    """A worker that serves both models."""

    worker: Worker
    changed: asyncio.Event
    told: list[int]
    attempts: int = 0

    async def measured(self) -> WorkerMemory:
        """What its process measured at its start."""
        async with asyncio.timeout(START_S):
            while self.worker.status.memory is None:
                self.changed.clear()
                await self.changed.wait()
        return self.worker.status.memory

    async def render(self, model: str, prompt: str, placement: str = "") -> Outcome:
        """One attempt of the smallest clip."""
        self.attempts += 1
        self.told.clear()
        request = effective(check_request({"model": model, "prompt": prompt, **SIZE}), seed=3)
        order = Order(
            attempt=Attempt(task_id=f"t{self.attempts}", number=1),
            parameters=to_parameters(request),
            artifact_prefix=f"results/t{self.attempts}/1/",
            deadline_s=RENDER_S,
            placement=placement,
        )
        return await self.worker.render(order)


@asynccontextmanager
async def running_pool(folder: Path, models: Path, *, budget: int, catalog: str = "degraded_pool.catalog:catalog") -> AsyncIterator[Pool]:
    """A pool whose device has this budget."""
    settings = WorkerSettings(
        name="pool-test",
        catalog=catalog,
        profile="tiny",
        models_dir=models,
        device="cpu",
        object_store_url=(folder / "objects").as_uri(),
        torch_threads=1,
        memory_budget_bytes=budget,
    )
    changed, told = asyncio.Event(), list[int]()
    worker = Worker(
        settings,
        on_change=changed.set,
        on_progress=lambda attempt, phase, progress, detail: told.append(progress),
        on_gpu_free=lambda attempt: None,
    )
    running = asyncio.create_task(worker.run(), name="worker")
    try:
        yield Pool(worker=worker, changed=changed, told=told)
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture(scope="module", autouse=True)
def _children_find_the_harness() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("WARMLANE_LOG_LEVEL", "warning")
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny components lie."""
    return tmp_path_factory.mktemp("models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of one model with all its weights on the device, for the clip of these tests; in bytes."""

    peak_bytes: int
    weight_bytes: int


@pytest.fixture(scope="module")
def measured(models: Path) -> Mapping[str, Measured]:
    """What the fastest placement of each model takes on a device that has plenty."""
    from degraded_pool.catalog import catalog
    from runtime.lane.memory.open import open_device
    from runtime.lane.renderer import LoadSettings, RenderJob

    memory = open_device("cpu", budget_bytes=10**9)
    settings = LoadSettings(profile="tiny", models_dir=models, memory=memory)
    found = {}
    for model in MODELS:
        pipeline = catalog.assemble(model, catalog.read(model, settings, ignore), settings, ignore)
        memory.reset_peaks()
        request = effective(check_request({"model": model, "prompt": PROMPT, **SIZE}), seed=3)
        pipeline.render(RenderJob(request=request, images={}, placement=PLACEMENTS[0], on_phase=ignore, on_step=ignore, check=ignore))
        found[model] = Measured(peak_bytes=memory.figures().peak_allocated_bytes or 0, weight_bytes=memory.live_bytes())
        pipeline.release()
    return found


@pytest.fixture(scope="module")
def tight_bytes(measured: Mapping[str, Measured]) -> int:
    """A budget that admits either model, all of it on the device, but not with the other one's weights beside it."""
    one, other = measured.values()
    budget = max(one.peak_bytes, other.peak_bytes)
    assert one.peak_bytes + other.weight_bytes > budget
    assert other.peak_bytes + one.weight_bytes > budget
    return budget


@pytest.fixture(scope="module")
def predicted_bytes(models: Path) -> int:
    """A budget in which the fastest placement of either model fits by prediction, which is made for greater clips than these."""
    from degraded_pool.catalog import catalog
    from runtime.lane.memory.open import open_device
    from runtime.lane.renderer import LoadSettings

    settings = LoadSettings(profile="tiny", models_dir=models, memory=open_device("cpu", budget_bytes=10**9))
    return max(peak_bytes(catalog.ladder(model, settings).rungs[0], SHAPE) for model in MODELS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meddled_pool(
    tmp_path_factory: pytest.TempPathFactory, models: Path, predicted_bytes: int, _children_find_the_harness: None
) -> AsyncIterator[Pool]:
    """A pool in which the memory runs out where a prompt says so. Tests that leave its process alive share it: it takes long to start."""
    folder = tmp_path_factory.mktemp("meddled")
    async with running_pool(folder, models, budget=predicted_bytes, catalog="tests.harness.meddled_catalog:catalog") as pool:
        await pool.measured()
        yield pool
        assert pool.worker.status.cold_starts == 1


def ignore(*_: object) -> None:
    """Nobody follows."""


def check_alternation(outcomes: Sequence[Outcome], budget: int) -> None:
    """What must hold of alternating requests."""
    records = [outcome.memory for outcome in outcomes]
    assert [outcome.failure for outcome in outcomes] == [None] * len(outcomes)
    # A refused allocation is no peak: so both, what was asked for and what was had.
    assert [record.out_of_memory for record in records] == [()] * len(records)
    assert all(0 < highest_peak(record) <= (record.peak_allocated_bytes or 0) <= budget for record in records)
    assert {record.placement for record in records} == {placement.name for placement in PLACEMENTS}
    changes = [record.residency_change for record in records]
    assert [change and change.residue_bytes for change in changes] == [0] * len(changes)
    assert [change and change.process_replaced for change in changes] == [False] * len(changes)
    # Each model is read from disk once; every later switch takes it from host memory.
    assert [change and change.from_host for change in changes] == [False, False] + [True] * (len(changes) - 2)
    assert [record.drift_bytes for record in records] == [0] * len(records)


def highest_peak(record: MemoryRecord) -> int:
    """Of all phases."""
    return max((one.peak_bytes for one in record.phase_peaks), default=0)


async def alternate(pool: Pool, requests: int) -> list[Outcome]:
    """Alternating models; the placement changes after each pair, so that both models meet on the one that keeps weights on the device."""
    pairs = itertools.cycle(name for placement in PLACEMENTS for name in (placement.name, placement.name))
    return [await pool.render(MODELS[number % 2], PROMPT, next(pairs)) for number in range(requests)]


@pytest.mark.parametrize("requests", [2 * len(PLACEMENTS), pytest.param(200, marks=(pytest.mark.long, pytest.mark.timeout(1800)))])
async def test_no_peak_is_over_the_budget_and_nothing_is_left_when_models_alternate(
    tmp_path: Path, models: Path, tight_bytes: int, requests: int
) -> None:
    async with running_pool(tmp_path, models, budget=tight_bytes, catalog="tests.harness.meddled_catalog:weighing") as pool:
        outcomes = await alternate(pool, requests)
        assert pool.worker.status.cold_starts == 1
    check_alternation(outcomes, tight_bytes)


@pytest.mark.long
async def test_the_same_requests_do_not_pass_when_a_release_keeps_the_weights(tmp_path: Path, models: Path, tight_bytes: int) -> None:
    async with running_pool(tmp_path, models, budget=tight_bytes, catalog="tests.harness.meddled_catalog:keeping") as pool:
        outcomes = await alternate(pool, 2)
        cold_starts = pool.worker.status.cold_starts
    # Found before the other model was loaded: the process is replaced, and the request served.
    change = outcomes[1].memory.residency_change
    assert change is not None
    assert change.process_replaced
    assert change.residue_bytes > 0
    assert cold_starts == 2
    assert outcomes[1].result is not None
    with pytest.raises(AssertionError):
        check_alternation(outcomes, tight_bytes)


@pytest.mark.asyncio(loop_scope="module")
async def test_limits_and_ladders_are_known_when_the_process_is_up(meddled_pool: Pool, predicted_bytes: int) -> None:
    memory = await meddled_pool.measured()
    assert memory.limits.budget_bytes == predicted_bytes
    assert [ladder.model for ladder in memory.ladders] == list(MODELS)
    assert [rung.placement for rung in memory.ladders[0].rungs] == [placement.name for placement in PLACEMENTS]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("model", "phase"),
    # The first of these phases loads all weights; AniSora alone encodes in this mode.
    [
        *(("anisora", phase) for phase in ("load", "text", "encode", "denoise", "decode")),
        ("phr00t", "denoise"),
        *(pytest.param("phr00t", phase, marks=pytest.mark.long) for phase in ("load", "text", "decode")),
    ],
)
async def test_the_next_rung_gives_its_own_frames_when_the_memory_runs_out_in_any_phase(meddled_pool: Pool, model: str, phase: str) -> None:
    pool, prompt = meddled_pool, f"runs out in {phase}"
    recovered = await pool.render(model, prompt, "resident_all")
    assert pool.told == sorted(pool.told)
    assert [(one.phase, one.placement) for one in recovered.memory.out_of_memory] == [(phase, "resident_all")]
    assert all(0 < one.peak_bytes <= one.budget_bytes for one in recovered.memory.out_of_memory)
    rung = recovered.memory.placement
    clean = await pool.render(model, prompt, rung)
    assert clean.memory.out_of_memory == ()
    assert rung != "resident_all"
    # Traced are the networks' passes; what a call keeps beside them is small, and the margin of a GPU is for it. Here it is 0.
    assert 0 < highest_peak(clean.memory) <= clean.memory.predicted_peak_bytes * 1.02
    assert recovered.result is not None
    assert clean.result is not None
    assert recovered.result.sha256 == clean.result.sha256
    # Nothing is left of what ran out.
    assert recovered.memory.allocated_bytes == clean.memory.allocated_bytes == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_the_attempt_fails_and_the_next_one_does_not_when_the_memory_runs_out_twice(meddled_pool: Pool) -> None:
    failed = await meddled_pool.render("phr00t", "runs out twice in denoise", "resident")
    following = await meddled_pool.render("phr00t", PROMPT, "resident")
    assert failed.failure is not None
    assert failed.failure.code is FailureCode.GPU_MEMORY_EXCEEDED
    assert len(failed.memory.out_of_memory) == 2
    assert failed.memory.allocated_bytes == 0
    assert following.result is not None
    assert following.memory.out_of_memory == ()
    assert following.memory.drift_bytes == 0


@pytest.mark.long
async def test_the_attempt_is_lost_and_the_next_process_serves_when_the_process_dies_in_its_second_try(
    tmp_path: Path, models: Path, predicted_bytes: int
) -> None:
    async with running_pool(tmp_path, models, budget=predicted_bytes, catalog="tests.harness.meddled_catalog:catalog") as pool:
        lost = await pool.render("phr00t", "runs out in text and dies", "resident_all")
        following = await pool.render("phr00t", PROMPT)
        assert pool.worker.status.cold_starts == 2
    assert lost.failure is not None
    assert lost.failure.code is FailureCode.LANE_LOST
    assert lost.memory.unmeasured_reason
    assert following.result is not None
