"""The one slot for a pipeline, with a device whose memory a test decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from runtime.fit.cost import ModelLadder
from runtime.lane.child_protocol import Release
from runtime.lane.ladders import Ladders
from runtime.lane.loading import LoadProgress
from runtime.lane.renderer import HostWeights, LoadSettings, ModelFilesMissingError, Pipeline, RenderJob
from runtime.lane.resident_set import LoadError, MemoryNotReturnedError, ResidentSet
from runtime.lane.start_failure import StartCause
from tests.harness.lane_memory import FakeMemory, FakeWeights, flat_ladder


class FakePipeline:
    """Takes 100 bytes of the memory and gives back all but `keeps`."""

    def __init__(self, memory: FakeMemory, keeps: int) -> None:
        """Takes them."""
        self._memory = memory
        self._keeps = keeps
        memory.alive_bytes += 100

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
        self._memory.alive_bytes -= 100 - self._keeps


class FakeCatalog:
    """Loads FakePipelines; a model named `broken` fails when it is assembled, after it took `residue` bytes, and `unread` when it is read.

    Attributes:
        keeps: bytes that pipelines made from now on keep.
        read_models: models whose weights were read, with whether they were mapped, in order.
        weights: what the reads gave.
    """

    def __init__(self, memory: FakeMemory, *, keeps: int = 0, residue: int = 0, host_bytes: int = 100) -> None:
        """Keeps how pipelines behave."""
        self._memory = memory
        self.keeps = keeps
        self._residue = residue
        self._host_bytes = host_bytes
        self.read_models: list[tuple[str, bool]] = []
        self.weights: list[FakeWeights] = []
        self.assembled_poor: list[bool] = []
        self.held: list[Pipeline] = []
        self.holds = False
        self.error: Exception = OSError("no such weights")

    def models(self) -> tuple[str, ...]:
        """All of them."""
        return ("a", "b", "broken", "unread")

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """Of weights of that size."""
        return flat_ladder(model, host_bytes=self._host_bytes)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Reads or fails."""
        self.read_models.append((model, settings.is_host_poor))
        if model == "unread":
            raise self.error
        self.weights.append(FakeWeights(host_bytes=0 if settings.is_host_poor else self._host_bytes))
        return self.weights[-1]

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Assembles or fails."""
        self.assembled_poor.append(settings.is_host_poor)
        if model == "broken":
            self._memory.alive_bytes += self._residue
            raise self.error
        pipeline = FakePipeline(self._memory, self.keeps)
        if self.holds:
            self.held.append(pipeline)
        return pipeline


def resident_set(catalog: FakeCatalog, memory: FakeMemory, on_change: Callable[[str], None] | None = None) -> ResidentSet:
    """An empty one."""
    settings = LoadSettings(profile="tiny", models_dir=Path("models"), memory=memory)
    return ResidentSet(catalog, settings, Ladders(catalog, settings), on_change or ignore)


def ignore(detail: str) -> None:
    """Stages that nobody follows."""


def test_the_switch_is_recorded_when_the_model_changes() -> None:
    memory = FakeMemory()
    changes: list[str] = []
    resident = resident_set(FakeCatalog(memory), memory, changes.append)
    resident.ensure("a", ignore)
    change = resident.ensure("b", ignore)
    assert change is not None
    assert (change.released_model, change.loaded_model) == ("a", "b")
    assert (change.released_bytes, change.loaded_bytes, change.residue_bytes) == (100, 100, 0)
    assert not change.process_replaced
    assert changes == ["a", "", "b"]
    assert memory.alive_bytes == 100


def test_nothing_is_loaded_when_the_model_is_resident() -> None:
    memory = FakeMemory()
    resident = resident_set(FakeCatalog(memory), memory)
    resident.ensure("a", ignore)
    first = resident.pipeline
    assert resident.ensure("a", ignore) is None
    assert resident.pipeline is first


def test_nothing_is_loaded_when_memory_survives_the_release() -> None:
    memory = FakeMemory()
    resident = resident_set(FakeCatalog(memory, keeps=60), memory)
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
    resident = resident_set(catalog, memory)
    resident.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError):
        resident.ensure("b", ignore)


def test_nothing_is_loaded_when_the_release_fails() -> None:
    memory = FakeMemory()
    resident = resident_set(FakeCatalog(memory, keeps=-1), memory)
    resident.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError):
        resident.ensure("b", ignore)


def test_the_record_says_replaced_when_the_last_process_could_not_release() -> None:
    memory = FakeMemory()
    first = resident_set(FakeCatalog(memory, keeps=60), memory)
    first.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError) as caught:
        first.release()
    change = resident_set(FakeCatalog(memory), memory).ensure("b", ignore, caught.value.released)
    assert change is not None
    assert change.process_replaced
    assert (change.released_model, change.residue_bytes) == ("a", 60)


def test_the_model_is_released_when_what_is_left_hangs_on_the_kept_networks() -> None:
    memory = FakeMemory()
    catalog = FakeCatalog(memory, keeps=60)
    resident = resident_set(catalog, memory)
    resident.ensure("a", ignore)
    (weights,) = catalog.weights

    def forget() -> None:
        memory.alive_bytes -= 60

    weights.forget_networks = forget  # type: ignore[method-assign]
    catalog.keeps = 0

    change = resident.ensure("b", ignore)

    assert change is not None
    assert (change.released_model, change.residue_bytes) == ("a", 0)


def test_small_leaks_add_up_when_models_are_switched_again_and_again() -> None:
    # Each load measured a new floor, so a leak just under the allowance passed at every switch, for ever.
    memory = FakeMemory()
    resident = resident_set(FakeCatalog(memory, keeps=6), memory)
    resident.ensure("a", ignore)
    change = resident.ensure("b", ignore)
    assert change is not None
    assert change.residue_bytes == 0
    with pytest.raises(MemoryNotReturnedError) as caught:
        resident.ensure("a", ignore)
    assert caught.value.released.residue_bytes == 12


def test_the_floor_is_the_lowest_when_less_is_alive_before_a_later_load() -> None:
    memory = FakeMemory()
    memory.alive_bytes = 50
    resident = resident_set(FakeCatalog(memory), memory)
    resident.ensure("a", ignore)
    memory.alive_bytes -= 50
    resident.ensure("b", ignore)
    memory.alive_bytes += 11
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
        resident_set(catalog, memory).ensure("broken", ignore)
    assert caught.value.is_out_of_memory is is_out_of_memory


@pytest.mark.parametrize(("residue", "clean"), [(0, True), (60, False)])
def test_nothing_is_resident_when_a_load_fails(residue: int, clean: bool) -> None:
    memory = FakeMemory()
    resident = resident_set(FakeCatalog(memory, residue=residue), memory)
    with pytest.raises(LoadError, match="no such weights") as caught:
        resident.ensure("broken", ignore)
    assert caught.value.is_clean is clean
    assert resident.model == ""


@pytest.mark.parametrize("model", ["broken", "unread"])
def test_the_weights_are_read_anew_when_the_last_load_failed(model: str) -> None:
    # What is wrong may be the weights: they do not stay on the shelf.
    memory = FakeMemory()
    catalog = FakeCatalog(memory)
    resident = resident_set(catalog, memory)
    for _ in range(2):
        with pytest.raises(LoadError):
            resident.ensure(model, ignore)
    assert catalog.read_models == [(model, False)] * 2


def test_nothing_is_read_when_a_model_comes_back() -> None:
    memory = FakeMemory()
    catalog = FakeCatalog(memory)
    resident = resident_set(catalog, memory)
    changes = [resident.ensure(model, ignore) for model in ("a", "b", "a", "b")]
    assert [change.from_host for change in changes if change is not None] == [False, False, True, True]
    assert [model for model, _ in catalog.read_models] == ["a", "b"]


def test_the_other_model_s_weights_are_dropped_when_host_memory_has_no_room_for_both() -> None:
    # 1000 bytes of which a quarter stays free: 750 for weights of 400.
    memory = FakeMemory(host_bytes=1000)
    catalog = FakeCatalog(memory, host_bytes=400)
    resident = resident_set(catalog, memory)
    changes = [resident.ensure(model, ignore) for model in ("a", "b", "a")]
    assert [change.from_host for change in changes if change is not None] == [False, False, False]
    assert catalog.read_models == [("a", False), ("b", False), ("a", False)]


def test_the_weights_are_mapped_when_the_host_is_too_small_for_one_model() -> None:
    memory = FakeMemory(host_bytes=1000)
    catalog = FakeCatalog(memory, host_bytes=800)
    resident_set(catalog, memory).ensure("a", ignore)
    assert catalog.read_models == [("a", True)]
    assert catalog.assembled_poor == [True]


def test_the_driver_s_figure_counts_when_the_allocator_s_is_clean() -> None:
    memory = FakeMemory()
    memory.free_bytes = 1000
    resident = resident_set(FakeCatalog(memory), memory)
    resident.ensure("a", ignore)
    memory.free_bytes = 700
    with pytest.raises(MemoryNotReturnedError) as caught:
        resident.ensure("b", ignore)
    assert caught.value.released.residue_bytes == 300


def test_a_pipeline_stays_when_nothing_is_left_of_what_ran_out() -> None:
    memory = FakeMemory()
    told: list[str] = []
    resident = resident_set(FakeCatalog(memory), memory, told.append)
    resident.ensure("a", ignore)
    memory.alive_bytes = 0
    pipeline = resident.pipeline
    resident.renew(ignore)
    assert resident.pipeline is pipeline


def test_a_pipeline_is_made_anew_and_nobody_is_told_when_something_is_left_of_what_ran_out() -> None:
    # A lane that keeps its model warm would pass for cold meanwhile.
    memory = FakeMemory()
    told: list[str] = []
    catalog = FakeCatalog(memory)
    resident = resident_set(catalog, memory, told.append)
    resident.ensure("a", ignore)
    resident.renew(ignore)
    assert len(catalog.assembled_poor) == 2
    assert (resident.model, told) == ("a", ["a"])
    assert catalog.read_models == [("a", False)]


def test_nothing_is_resident_when_what_ran_out_cannot_be_released() -> None:
    memory = FakeMemory()
    told: list[str] = []
    resident = resident_set(FakeCatalog(memory, keeps=60), memory, told.append)
    resident.ensure("a", ignore)
    with pytest.raises(MemoryNotReturnedError):
        resident.renew(ignore)
    assert (resident.model, told) == ("", ["a", ""])


def test_the_record_says_replaced_when_the_new_process_has_its_model_already() -> None:
    # A lane that keeps its model warm loads it before it gets the attempt back; the record knew nothing of the replacement.
    memory = FakeMemory()
    resident = resident_set(FakeCatalog(memory), memory)
    resident.ensure("a", ignore)
    released = Release(model="a", weight_bytes=100, residue_bytes=60, release_s=0.5)
    change = resident.ensure("a", ignore, released)
    assert change is not None
    assert change.process_replaced
    assert (change.released_model, change.loaded_model, change.residue_bytes) == ("a", "a", 60)


def test_everything_is_dropped_when_the_set_is_closed() -> None:
    memory = FakeMemory()
    catalog = FakeCatalog(memory)
    resident = resident_set(catalog, memory)
    resident.ensure("a", ignore)
    resident.close()
    assert memory.alive_bytes == 0
    resident.ensure("a", ignore)
    assert len(catalog.read_models) == 2


class ReadingCatalog(FakeCatalog):
    """Tells of the read as real ones do."""

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """In two halves; the first is read within the time in which nothing is told again."""
        on_stage("loading the VAE")
        settings.on_read(50, 100)
        on_stage("loading the transformer")
        settings.on_read(100, 100)
        return super().read(model, settings, on_stage)


def test_agent_and_attempt_hear_how_far_a_load_is() -> None:
    memory = FakeMemory()
    catalog, heard, shown = ReadingCatalog(memory), list[LoadProgress](), list[str]()
    settings = LoadSettings(profile="tiny", models_dir=Path("models"), memory=memory)
    resident = ResidentSet(catalog, settings, Ladders(catalog, settings), ignore, heard.append)
    resident.ensure("a", ignore)
    heard.clear()
    resident.ensure("b", shown.append)
    assert shown == ["releasing a", "making room in host memory", "loading the VAE", "loading the transformer, 50 %"]
    assert [str(progress) for progress in heard] == shown
    assert {progress.model for progress in heard} == {"b"}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModelFilesMissingError("no folder"), StartCause.WEIGHTS_MISSING),
        (MemoryError(), StartCause.HOST_MEMORY),
        (RuntimeError("CUDA error: out of memory"), StartCause.GPU_MEMORY),
    ],
)
@pytest.mark.parametrize("model", ["unread", "broken"])
def test_the_load_error_has_the_cause_wherever_the_load_fails(model: str, error: Exception, cause: StartCause) -> None:
    memory = FakeMemory()
    catalog = FakeCatalog(memory)
    catalog.error = error
    with pytest.raises(LoadError) as caught:
        resident_set(catalog, memory).ensure(model, ignore)
    assert caught.value.cause is cause
