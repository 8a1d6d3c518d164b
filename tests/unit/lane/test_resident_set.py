"""The one slot for a pipeline, with a device whose memory a test decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from runtime.lane.renderer import LoadSettings, Pipeline, RenderJob
from runtime.lane.resident_set import LoadError, MemoryNotReturnedError, Move, ResidentSet, is_released, plan_moves
from tests.harness.lane_memory import FakeMemory

SETTINGS = LoadSettings(profile="tiny", models_dir=Path("models"), device="cpu")


class FakePipeline:
    """Takes 100 bytes of the memory and gives back all but `keeps`."""

    def __init__(self, memory: FakeMemory, keeps: int) -> None:
        """Takes them."""
        self._memory = memory
        self._keeps = keeps
        memory.live_bytes += 100

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Not used here."""
        raise NotImplementedError

    def weight_bytes(self) -> int:
        """What it took."""
        return 100

    def release(self) -> None:
        """Gives back."""
        if self._keeps < 0:
            msg = "a hook is stuck"
            raise RuntimeError(msg)
        self._memory.live_bytes -= 100 - self._keeps


class FakeCatalog:
    """Loads FakePipelines; a model named `broken` fails after it took `residue` bytes."""

    def __init__(self, memory: FakeMemory, *, keeps: int = 0, residue: int = 0) -> None:
        """Keeps how pipelines behave."""
        self._memory = memory
        self._keeps = keeps
        self._residue = residue
        self.held: list[Pipeline] = []
        self.holds = False
        self.error: Exception = OSError("no such weights")

    def models(self) -> tuple[str, ...]:
        """All of them."""
        return ("a", "b", "broken")

    def load(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Loads or fails."""
        if model == "broken":
            self._memory.live_bytes += self._residue
            raise self.error
        pipeline = FakePipeline(self._memory, self._keeps)
        if self.holds:
            self.held.append(pipeline)
        return pipeline


def ignore(detail: str) -> None:
    """Stages that nobody follows."""


def test_the_plan_releases_before_it_loads_when_another_is_resident() -> None:
    assert plan_moves(resident="a", wanted="b") == (Move.RELEASE, Move.LOAD)


def test_the_plan_is_empty_when_the_model_is_resident() -> None:
    assert plan_moves(resident="a", wanted="a") == ()


def test_the_plan_only_releases_when_nothing_is_wanted() -> None:
    assert plan_moves(resident="a", wanted="") == (Move.RELEASE,)


@pytest.mark.parametrize(("residue", "alive", "released"), [(10, False, True), (11, False, False), (0, True, False)])
def test_a_release_counts_when_little_is_left_and_nothing_holds_it(residue: int, alive: bool, released: bool) -> None:
    assert is_released(residue_bytes=residue, allowance_bytes=10, is_alive=alive) is released


def test_the_switch_is_recorded_when_the_model_changes() -> None:
    memory = FakeMemory()
    changes: list[str] = []
    resident = ResidentSet(FakeCatalog(memory), SETTINGS, memory, changes.append)
    resident.ensure("a", ignore)
    _, change = resident.ensure("b", ignore)
    assert change is not None
    assert (change.released_model, change.loaded_model) == ("a", "b")
    assert (change.released_bytes, change.loaded_bytes, change.residue_bytes) == (100, 100, 0)
    assert not change.process_replaced
    assert changes == ["a", "", "b"]
    assert memory.live_bytes == 100


def test_nothing_is_loaded_when_the_model_is_resident() -> None:
    memory = FakeMemory()
    resident = ResidentSet(FakeCatalog(memory), SETTINGS, memory, ignore)
    first, _ = resident.ensure("a", ignore)
    second, change = resident.ensure("a", ignore)
    assert first is second
    assert change is None


def test_nothing_is_loaded_when_memory_survives_the_release() -> None:
    memory = FakeMemory()
    resident = ResidentSet(FakeCatalog(memory, keeps=60), SETTINGS, memory, ignore)
    resident.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError) as caught:
        resident.ensure("b", ignore)
    assert caught.value.released.residue_bytes == 60
    assert caught.value.released.model == "a"
    assert resident.model == ""


def test_nothing_is_loaded_when_something_still_holds_the_pipeline() -> None:
    memory = FakeMemory()
    catalog = FakeCatalog(memory)
    catalog.holds = True
    resident = ResidentSet(catalog, SETTINGS, memory, ignore)
    resident.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError):
        resident.ensure("b", ignore)


def test_nothing_is_loaded_when_the_release_fails() -> None:
    memory = FakeMemory()
    resident = ResidentSet(FakeCatalog(memory, keeps=-1), SETTINGS, memory, ignore)
    resident.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError):
        resident.ensure("b", ignore)


def test_the_record_says_replaced_when_the_last_process_could_not_release() -> None:
    memory = FakeMemory()
    first = ResidentSet(FakeCatalog(memory, keeps=60), SETTINGS, memory, ignore)
    first.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError) as caught:
        first.release()
    _, change = ResidentSet(FakeCatalog(memory), SETTINGS, memory, ignore).ensure("b", ignore, caught.value.released)
    assert change is not None
    assert change.process_replaced
    assert (change.released_model, change.residue_bytes) == ("a", 60)


def test_small_leaks_add_up_when_models_are_switched_again_and_again() -> None:
    # Each load measured a new floor, so a leak just under the allowance passed at every switch, for ever.
    memory = FakeMemory()
    resident = ResidentSet(FakeCatalog(memory, keeps=6), SETTINGS, memory, ignore)
    resident.ensure("a", ignore)
    _, change = resident.ensure("b", ignore)
    assert change is not None
    assert change.residue_bytes == 0
    with pytest.raises(MemoryNotReturnedError) as caught:
        resident.ensure("a", ignore)
    assert caught.value.released.residue_bytes == 12


def test_the_floor_is_the_lowest_when_less_is_alive_before_a_later_load() -> None:
    memory = FakeMemory()
    memory.live_bytes = 50
    resident = ResidentSet(FakeCatalog(memory), SETTINGS, memory, ignore)
    resident.ensure("a", ignore)
    memory.live_bytes -= 50
    resident.ensure("b", ignore)
    memory.live_bytes += 11
    with pytest.raises(MemoryNotReturnedError) as caught:
        resident.ensure("a", ignore)
    assert caught.value.released.residue_bytes == 11


@pytest.mark.parametrize(
    ("error", "is_out_of_memory"), [(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True), (RuntimeError("no"), False)]
)
def test_the_load_error_tells_when_the_gpu_s_memory_ran_out(error: Exception, is_out_of_memory: bool) -> None:
    memory = FakeMemory()
    catalog = FakeCatalog(memory)
    catalog.error = error
    with pytest.raises(LoadError) as caught:
        ResidentSet(catalog, SETTINGS, memory, ignore).ensure("broken", ignore)
    assert caught.value.is_out_of_memory is is_out_of_memory


@pytest.mark.parametrize(("residue", "clean"), [(0, True), (60, False)])
def test_nothing_is_resident_when_a_load_fails(residue: int, clean: bool) -> None:
    memory = FakeMemory()
    resident = ResidentSet(FakeCatalog(memory, residue=residue), SETTINGS, memory, ignore)
    with pytest.raises(LoadError, match="no such weights") as caught:
        resident.ensure("broken", ignore)
    assert caught.value.is_clean is clean
    assert resident.model == ""
