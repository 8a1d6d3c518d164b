"""The one slot for a heavy pipeline: release, verify, load, record. The plan is a pure function; the mechanism carries it out."""

from __future__ import annotations

import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import structlog

from runtime.lane.child_protocol import Release
from runtime.lane.device import DeviceMemory, is_out_of_gpu_memory
from runtime.lane.outcome import ResidencyChange
from runtime.lane.renderer import Catalog, LoadSettings, Pipeline

_log = structlog.get_logger()


class Move(StrEnum):
    """One move of a switch."""

    RELEASE = "release"
    LOAD = "load"


def plan_moves(*, resident: str, wanted: str) -> tuple[Move, ...]:
    """What to do so that `wanted` is resident; never loads beside another. An empty name means none."""
    if resident == wanted:
        return ()
    release = (Move.RELEASE,) if resident else ()
    load = (Move.LOAD,) if wanted else ()
    return release + load


def is_released(*, residue_bytes: int, allowance_bytes: int, is_alive: bool) -> bool:
    """Whether a release gave the memory back: nothing holds the pipeline and no more than the allowance is left of it."""
    return not is_alive and residue_bytes <= allowance_bytes


class MemoryNotReturnedError(Exception):
    """The memory of a pipeline did not come back: this process must not load another one. `released` says what is known of it."""

    def __init__(self, released: Release) -> None:
        """Keeps the figures."""
        super().__init__(f"{released.residue_bytes} bytes of {released.model} survived its release")
        self.released = released


class LoadError(Exception):
    """A model could not be loaded and nothing is resident. The text is for operators.

    Attributes:
        is_clean: the memory of the failed load came back; if not, the process should be replaced.
        is_out_of_memory: the GPU's memory ran out.
    """

    def __init__(self, reason: str, *, is_clean: bool, is_out_of_memory: bool) -> None:
        """Keeps the reason."""
        super().__init__(reason)
        self.is_clean = is_clean
        self.is_out_of_memory = is_out_of_memory


def drop_frames(error: BaseException) -> None:
    """Drops what an exception and those before it hold through their tracebacks; while they do, no tensor of theirs is freed."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__


@dataclass(slots=True, kw_only=True)
class _Slot:
    model: str
    pipeline: Pipeline
    weight_bytes: int


class ResidentSet:
    """Holds at most one pipeline; there is one set per process. One thread uses it.

    Its floor is the lowest number of live bytes that it saw before a load. The residue of every release is what lies above that floor, so
    that little leaks add up and are found. A residue within the device's allowance is recorded as 0; one beyond it is recorded whole.
    """

    def __init__(self, catalog: Catalog, settings: LoadSettings, memory: DeviceMemory, on_change: Callable[[str], None]) -> None:
        """Starts empty.

        Args:
            catalog: loads the pipelines.
            settings: how.
            memory: tells whether memory came back.
            on_change: called with the resident model, or an empty string, whenever that changes.
        """
        self._catalog = catalog
        self._settings = settings
        self._memory = memory
        self._on_change = on_change
        self._slot: _Slot | None = None
        self._floor_bytes: int | None = None

    @property
    def model(self) -> str:
        """The resident model; empty when none is."""
        return self._slot.model if self._slot is not None else ""

    def ensure(
        self, model: str, on_stage: Callable[[str], None], released: Release | None = None
    ) -> tuple[Pipeline, ResidencyChange | None]:
        """Makes a model resident; the change is None when it was already.

        Args:
            model: what to load.
            on_stage: told what is being done, in short sentences.
            released: what the process before this one could not free, for the record.

        Raises:
            MemoryNotReturnedError: nothing was loaded; this process must end.
            LoadError: nothing is resident now.
        """
        replaced = released is not None
        for move in plan_moves(resident=self.model, wanted=model):
            match move:
                case Move.RELEASE:
                    on_stage(f"releasing {self.model}")
                    released = self.release()
                case Move.LOAD:
                    load_s = self._load(model, on_stage)
                    return self._pipeline(), self._change(released, load_s, replaced=replaced)
        return self._pipeline(), None

    def release(self) -> Release | None:
        """Releases what is resident and verifies it; None when nothing was.

        Raises:
            MemoryNotReturnedError: it did not come back.
        """
        slot, self._slot = self._slot, None
        if slot is None:
            return None
        self._on_change("")
        started_s = time.monotonic()
        watch = weakref.ref(slot.pipeline)
        has_failed = _has_failed_to_release(slot.pipeline)
        model, weight_bytes = slot.model, slot.weight_bytes
        del slot
        residue_bytes = self._residue_bytes()
        is_back = is_released(
            residue_bytes=residue_bytes,
            allowance_bytes=self._memory.residue_allowance_bytes,
            is_alive=has_failed or watch() is not None,
        )
        released = Release(
            model=model,
            weight_bytes=weight_bytes,
            # What is within the allowance belongs to the libraries, not to the released pipeline.
            residue_bytes=0 if is_back else residue_bytes,
            release_s=time.monotonic() - started_s,
        )
        if not is_back:
            raise MemoryNotReturnedError(released)
        return released

    def _load(self, model: str, on_stage: Callable[[str], None]) -> float:
        """Loads into the empty slot; returns how long it took, in seconds."""
        self._lower_floor()
        started_s = time.monotonic()
        try:
            pipeline = self._catalog.load(model, self._settings, on_stage)
        except Exception as error:
            reason, is_out_of_memory = f"{type(error).__name__}: {error}", is_out_of_gpu_memory(error)
            drop_frames(error)
        else:
            self._slot = _Slot(model=model, pipeline=pipeline, weight_bytes=pipeline.weight_bytes())
            self._on_change(model)
            return time.monotonic() - started_s
        # Only here is the error, whose frames hold what was loaded so far, gone.
        is_clean = self._residue_bytes() <= self._memory.residue_allowance_bytes
        raise LoadError(reason, is_clean=is_clean, is_out_of_memory=is_out_of_memory)

    def _lower_floor(self) -> None:
        """Measures before a load; the floor never rises, or a leak below the allowance would pass at every switch."""
        self._memory.cleanup()
        live_bytes = self._memory.live_tensor_bytes()
        self._floor_bytes = live_bytes if self._floor_bytes is None else min(self._floor_bytes, live_bytes)

    def _residue_bytes(self) -> int:
        """What is alive above the floor now, after cleanup."""
        self._memory.cleanup()
        return max(0, self._memory.live_tensor_bytes() - (self._floor_bytes or 0))

    def _pipeline(self) -> Pipeline:
        if self._slot is None:
            msg = "no pipeline is resident"
            raise RuntimeError(msg)
        return self._slot.pipeline

    def _change(self, released: Release | None, load_s: float, *, replaced: bool) -> ResidencyChange:
        slot = self._slot
        return ResidencyChange(
            loaded_model=self.model,
            loaded_bytes=slot.weight_bytes if slot is not None else 0,
            load_s=load_s,
            released_model=released.model if released is not None else "",
            released_bytes=released.weight_bytes if released is not None else 0,
            residue_bytes=released.residue_bytes if released is not None else 0,
            release_s=released.release_s if released is not None else 0.0,
            process_replaced=replaced,
        )


def _has_failed_to_release(pipeline: Pipeline) -> bool:
    try:
        pipeline.release()
    except Exception as error:
        _log.warning("release_failed", error=type(error).__name__, reason=str(error))
        drop_frames(error)
        return True
    return False
