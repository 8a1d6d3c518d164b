"""However a render ends, in whichever phase and placement: the device is empty afterwards, and the next render is as good."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.fit.placement import PLACEMENTS, MemoryPhase
from runtime.lane.renderer import RenderCancelled
from tests.harness.short import crossed
from tests.unit.pipelines.jobs import inner, make_job, make_request
from tests.unit.pipelines.watching import BOTH, WatchingMemory, place, placed_parts

if TYPE_CHECKING:
    import numpy.typing as npt

    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

NAMES = tuple(placement.name for placement in PLACEMENTS)
WORKING_PHASES = (MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE)


class Accident:
    """Raises within a block of a phase: the second one of it, so that weights and a copy are under way."""

    def __init__(self, phase: MemoryPhase, error: type[BaseException]) -> None:
        """Waits for the phase."""
        self._wanted, self._error = phase, error
        self._phase: MemoryPhase | None = None
        self._blocks = 0

    def on_phase(self, phase: MemoryPhase) -> None:
        """As the port wants it."""
        self._phase = phase

    def check(self) -> None:
        """As the port wants it."""
        self._blocks += self._phase is self._wanted
        if self._blocks == 2:
            raise self._error("here")


@pytest.fixture(scope="module")
def placed(models_dir: Path) -> dict[str, tuple[Pipeline, WatchingMemory]]:
    """Both models with a memory each."""
    return {model: place(model, models_dir) for model in BOTH}


@pytest.fixture(scope="module")
def frames(placed: dict[str, tuple[Pipeline, WatchingMemory]]) -> dict[str, npt.NDArray[np.uint8]]:
    """What an undisturbed render gives."""
    return {model: placed[model][0].render(make_job(make_request(model, "i2v"), placement="resident")) for model in BOTH}


def assert_nothing_is_left(pipeline: Pipeline, memory: WatchingMemory, *, stays: bool) -> None:
    """On the device, and in the networks."""
    assert (memory.weight_bytes > 0) == stays
    assert memory.live_bytes() == memory.weight_bytes
    for part in placed_parts(pipeline).values():
        assert [name for name, module in part.module.named_modules() if "forward" in vars(module)] == []
    assert not inner(pipeline).vae.use_tiling


@pytest.mark.parametrize(
    ("accident_of", "name", "phase"),
    crossed(
        [("anisora", "out of memory"), ("phr00t", "cancelled")],
        NAMES,
        WORKING_PHASES,
        short=lambda _accident_of, name, phase: phase is MemoryPhase.DENOISE or name == "streamed",
    ),
)
def test_the_device_is_empty_when_a_block_raises(
    placed: dict[str, tuple[Pipeline, WatchingMemory]],
    frames: dict[str, npt.NDArray[np.uint8]],
    accident_of: tuple[str, str],
    name: str,
    phase: MemoryPhase,
) -> None:
    import torch

    model, error = accident_of
    pipeline, memory = placed[model]
    accident = Accident(phase, RenderCancelled if error == "cancelled" else torch.OutOfMemoryError)
    request = make_request(model, "i2v")

    with pytest.raises((RenderCancelled, torch.OutOfMemoryError), match="here") as held:
        pipeline.render(make_job(request, check=accident.check, placement=name, on_phase=accident.on_phase))

    # The exception is still held, as whoever logs it may do, and no collector has run.
    assert held.value is not None
    assert_nothing_is_left(pipeline, memory, stays=name == "resident_all")
    if phase is MemoryPhase.DENOISE:
        assert np.abs(pipeline.render(make_job(request, placement=name)).astype(int) - frames[model]).max() <= 1


@pytest.mark.parametrize(
    ("phase", "name"),
    [
        # No other placement loads all weights before it begins.
        (MemoryPhase.LOAD, "resident_all"),
        *crossed(WORKING_PHASES, NAMES, short=lambda _phase, name: name in {"resident_all", "streamed"}),
    ],
)
def test_the_device_is_empty_when_a_phase_cannot_begin(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], phase: MemoryPhase, name: str
) -> None:
    pipeline, memory = placed["anisora"]
    pipeline.render(make_job(make_request("anisora"), placement="resident"))

    def begin(begun: MemoryPhase) -> None:
        if begun is phase:
            raise RenderCancelled

    with pytest.raises(RenderCancelled):
        pipeline.render(make_job(make_request("anisora"), placement=name, on_phase=begin))

    assert_nothing_is_left(pipeline, memory, stays=name == "resident_all" and phase is not MemoryPhase.LOAD)


@pytest.mark.parametrize(("model", "name"), crossed(BOTH, NAMES, short=lambda _model, name: name in {"resident", "streamed"}))
def test_the_device_is_empty_when_a_copy_fails(placed: dict[str, tuple[Pipeline, WatchingMemory]], model: str, name: str) -> None:
    import torch

    pipeline, memory = placed[model]
    pipeline.render(make_job(make_request(model), placement="resident"))
    begin, left = memory.begin_copy, [5]

    def fail(source: Any, target: Any) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise torch.OutOfMemoryError
        return begin(source, target)

    memory.begin_copy = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.render(make_job(make_request(model), placement=name))
    finally:
        del memory.begin_copy

    assert_nothing_is_left(pipeline, memory, stays=False)
    assert pipeline.render(make_job(make_request(model), placement=name)).shape == (9, 64, 64, 3)


def peaks(pipeline: Pipeline, memory: WatchingMemory, model: str, name: str) -> dict[MemoryPhase, int]:
    """The peak of each phase of a render."""
    found, phases = dict[MemoryPhase, int](), [MemoryPhase.LOAD]

    def begin(phase: MemoryPhase) -> None:
        found[phases[-1]] = memory.figures().peak_allocated_bytes or 0
        phases.append(phase)
        memory.reset_peaks()

    memory.reset_peaks()
    pipeline.render(make_job(make_request(model, "i2v"), placement=name, on_phase=begin))
    return found | {phases[-1]: memory.figures().peak_allocated_bytes or 0}


@pytest.mark.parametrize("model", BOTH)
def test_a_leaner_placement_renders_when_the_budget_is_too_small_for_the_others(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], frames: dict[str, npt.NDArray[np.uint8]], models_dir: Path, model: str
) -> None:
    import torch

    all_of_it, streamed = (max(peaks(*placed[model], model, name).values()) for name in ("resident_all", "streamed"))
    assert streamed < all_of_it
    pipeline, memory = place(model, models_dir, budget_bytes=(streamed + all_of_it) // 2)

    with pytest.raises(torch.OutOfMemoryError, match="total capacity"):
        pipeline.render(make_job(make_request(model, "i2v"), placement="resident_all"))
    assert np.array_equal(pipeline.render(make_job(make_request(model, "i2v"), placement="streamed")), frames[model])
    assert memory.live_bytes() == 0


@pytest.mark.parametrize(("model", "name"), crossed(BOTH, NAMES, short=lambda _model, name: name in {"resident_all", "streamed_chunked"}))
def test_the_device_is_empty_when_memory_runs_out_wherever_it_does(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], models_dir: Path, model: str, name: str
) -> None:
    import torch

    placed[model][0].render(make_job(make_request(model), placement="resident"))
    highest = max(peaks(*placed[model], model, name).values())

    for budget in (highest // 50, highest // 10, highest // 4, highest // 2, highest - 1):
        pipeline, memory = place(model, models_dir, budget_bytes=budget)
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.render(make_job(make_request(model, "i2v"), placement=name))
        assert memory.live_bytes() == memory.weight_bytes
        assert memory.weight_bytes == 0 or name == "resident_all"
        pipeline.release()
        assert memory.live_bytes() == 0


@pytest.mark.parametrize("end", ["well", "badly"])
@pytest.mark.parametrize("model", BOTH)
def test_host_memory_is_free_when_pipeline_and_weights_are_dropped(models_dir: Path, model: str, end: str) -> None:
    import weakref

    pipeline, memory = place(model, models_dir)
    hosts = [weakref.ref(tensor.untyped_storage()) for part in placed_parts(pipeline).values() for tensor in part.module.parameters()]
    held: BaseException | None = None
    accident = Accident(MemoryPhase.DENOISE, ZeroDivisionError)
    try:
        pipeline.render(
            make_job(
                make_request(model),
                check=accident.check if end == "badly" else lambda: None,
                placement="streamed",
                on_phase=accident.on_phase,
            )
        )
    except ZeroDivisionError as error:
        held = error
    pipeline.release()
    gc.collect()

    assert (held is not None) == (end == "badly")
    assert [host for host in hosts if host() is not None] == []
    assert memory.live_bytes() == 0
