"""The one slot for a heavy pipeline and the shelf of weights beside it: release, verify, read, assemble, record; the plans are pure."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from runtime.lane.child_protocol import Release
from runtime.lane.ladders import Ladders
from runtime.lane.loading import LoadProgress, LoadTeller
from runtime.lane.outcome import ResidencyChange
from runtime.lane.raised import cause_of_load, drop_frames
from runtime.lane.renderer import Catalog, LoadSettings, Pipeline
from runtime.lane.residency import Move, Verification, plan_moves
from runtime.lane.shelf import Shelf
from runtime.lane.start_failure import StartCause, reason_of

_log = structlog.get_logger()


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
        cause: what kind of failure it was.
    """

    def __init__(self, reason: str, *, is_clean: bool, cause: StartCause) -> None:
        """Keeps the reason."""
        super().__init__(reason)
        self.is_clean = is_clean
        self.cause = cause

    @property
    def is_out_of_memory(self) -> bool:
        """The GPU's memory ran out."""
        return self.cause is StartCause.GPU_MEMORY


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

    def __init__(
        self,
        catalog: Catalog,
        settings: LoadSettings,
        ladders: Ladders,
        on_change: Callable[[str], None],
        on_load: Callable[[LoadProgress], None] = lambda _progress: None,
    ) -> None:
        """Starts empty.

        Args:
            catalog: loads the pipelines.
            settings: how, and the device's memory, which tells whether it came back.
            ladders: of the models; they tell what weights take before they are read.
            on_change: called with the resident model, or an empty string, whenever that changes.
            on_load: told how far a load is, about twice a second while it reads.
        """
        self._catalog = catalog
        self._settings = settings
        self._memory = settings.memory
        self._ladders = ladders
        self._on_change = on_change
        self._on_load = on_load
        self._shelf = Shelf(catalog, settings)
        self._slot: _Slot | None = None
        self._floor_bytes: int | None = None
        self._free_bytes: int | None = None
        self._load_s = 0.0

    @property
    def model(self) -> str:
        """The resident model; empty when none is."""
        return self._slot.model if self._slot is not None else ""

    @property
    def pipeline(self) -> Pipeline:
        """The resident pipeline. Raises RuntimeError when none is."""
        if self._slot is None:
            msg = "no pipeline is resident"
            raise RuntimeError(msg)
        return self._slot.pipeline

    def ensure(self, model: str, on_stage: Callable[[str], None], released: Release | None = None) -> ResidencyChange | None:
        """Makes a model resident; the change is None when it was already.

        Args:
            model: what to load.
            on_stage: told what is being done, in short sentences.
            released: what the process before this one could not free, for the record.

        Raises:
            MemoryNotReturnedError: nothing was loaded; this process must end.
            LoadError: nothing is resident now.
        """
        is_replaced, from_host = released is not None, model in self._shelf
        moves = plan_moves(resident=self.model, wanted=model, is_at_hand=from_host)
        if not moves:
            # A replaced process of a lane that keeps its model warm has loaded it before the attempt comes.
            return None if released is None else self._change(released, from_host=False, process_replaced=True)
        teller = LoadTeller(model, lambda progress: self._tell(progress, on_stage))
        if Move.RELEASE in moves:
            teller.stage(f"releasing {self.model}")
            released = self.release()
        self._lower_floor(is_clean=Move.RELEASE in moves)
        started_s = time.monotonic()
        if Move.READ in moves:
            self._guarded(model, lambda: self._shelf.read(self._ladders.weights_of(model), teller))
        self._guarded(model, lambda: self._assemble(model, teller.stage))
        self._on_change(model)
        self._load_s = time.monotonic() - started_s
        return self._change(released, from_host=from_host, process_replaced=is_replaced)

    def release(self) -> Release | None:
        """Releases what is resident and verifies it; None when nothing was. The weights stay on the shelf.

        Raises:
            MemoryNotReturnedError: it did not come back.
        """
        if self._slot is None:
            return None
        self._on_change("")
        return self._release()

    def renew(self, on_stage: Callable[[str], None]) -> None:
        """After the memory ran out: if more is alive than before a load, the pipeline is released, which is verified, and made anew.

        Raises:
            MemoryNotReturnedError: it did not come back; nothing is resident.
            LoadError: nothing is resident now.
        """
        if self._slot is None or self._residue_bytes() <= self._memory.residue_allowance_bytes:
            return
        model = self._slot.model
        try:
            self._release(keeps_networks=False)
            self._guarded(model, lambda: self._assemble(model, on_stage))
        except BaseException:
            self._on_change("")
            raise

    def close(self) -> None:
        """Releases what is resident and drops all weights. Raises MemoryNotReturnedError."""
        try:
            self.release()
        finally:
            self._shelf.clear()

    def _release(self, *, keeps_networks: bool = True) -> Release:
        slot, self._slot = self._slot, None
        if slot is None:
            msg = "no pipeline is resident"
            raise RuntimeError(msg)
        started_s = time.monotonic()
        watch = weakref.ref(slot.pipeline)
        has_failed = _has_failed_to_release(slot.pipeline)
        model, weight_bytes = slot.model, slot.weight_bytes
        del slot
        if not keeps_networks:
            self._shelf.forget_networks(model)
        residue_bytes = self._residue_bytes()
        if residue_bytes > self._memory.residue_allowance_bytes:
            # The networks are kept for the next pipeline; something on the device may hang on them.
            self._shelf.forget_networks(model)
            residue_bytes = self._residue_bytes()
        found = Verification(
            is_alive=has_failed or watch() is not None,
            residue_bytes=residue_bytes,
            residue_allowance_bytes=self._memory.residue_allowance_bytes,
            shortfall_bytes=self._shortfall_bytes(),
            shortfall_allowance_bytes=self._memory.limits().margin_bytes,
        )
        released = Release(
            model=model,
            weight_bytes=weight_bytes,
            residue_bytes=found.recorded_bytes,
            release_s=time.monotonic() - started_s,
        )
        if not found.is_back:
            _log.warning("release_not_verified", model=model, reason=found.reason)
            raise MemoryNotReturnedError(released)
        return released

    def _tell(self, progress: LoadProgress, on_stage: Callable[[str], None]) -> None:
        self._on_load(progress)
        on_stage(str(progress))

    def _assemble(self, model: str, on_stage: Callable[[str], None]) -> None:
        pipeline = self._catalog.assemble(model, self._shelf[model], self._settings_of(model), on_stage)
        self._slot = _Slot(model=model, pipeline=pipeline, weight_bytes=pipeline.weight_bytes())

    def _settings_of(self, model: str) -> LoadSettings:
        return replace(self._settings, is_host_poor=self._shelf.is_mapped(model))

    def _guarded(self, model: str, work: Callable[[], None]) -> None:
        """Does a part of a load; when it fails, nothing of the model is left, not even on the shelf: it may be what is wrong.

        Raises:
            LoadError: with the reason.
        """
        try:
            work()
        except Exception as error:
            reason, cause = reason_of(error), cause_of_load(error)
            drop_frames(error)
        else:
            return
        # Only here is the error, whose frames hold what was loaded so far, gone.
        self._shelf.drop(model)
        is_clean = self._residue_bytes() <= self._memory.residue_allowance_bytes
        raise LoadError(reason, is_clean=is_clean, cause=cause)

    def _lower_floor(self, *, is_clean: bool) -> None:
        """Measures before a load; the floor never rises, or a leak below the allowance would pass at every switch."""
        if not is_clean:
            self._memory.cleanup()
        live_bytes = self._memory.live_bytes()
        self._floor_bytes = live_bytes if self._floor_bytes is None else min(self._floor_bytes, live_bytes)
        if self._free_bytes is None:
            self._free_bytes = self._memory.figures().driver_free_bytes

    def _residue_bytes(self) -> int:
        """What is alive above the floor now, after cleanup."""
        self._memory.cleanup()
        return max(0, self._memory.live_bytes() - (self._floor_bytes or 0))

    def _shortfall_bytes(self) -> int:
        """By how much less the driver has free than before the first load; 0 where it does not tell."""
        free_bytes = self._memory.figures().driver_free_bytes
        if free_bytes is None or self._free_bytes is None:
            return 0
        return max(0, self._free_bytes - free_bytes)

    def _change(self, released: Release | None, *, from_host: bool, process_replaced: bool) -> ResidencyChange:
        slot = self._slot
        return ResidencyChange(
            loaded_model=self.model,
            loaded_bytes=slot.weight_bytes if slot is not None else 0,
            load_s=self._load_s,
            released_model=released.model if released is not None else "",
            released_bytes=released.weight_bytes if released is not None else 0,
            residue_bytes=released.residue_bytes if released is not None else 0,
            release_s=released.release_s if released is not None else 0.0,
            process_replaced=process_replaced,
            from_host=from_host,
        )


def _has_failed_to_release(pipeline: Pipeline) -> bool:
    try:
        pipeline.release()
    except Exception as error:
        _log.warning("release_failed", error=type(error).__name__, reason=str(error))
        drop_frames(error)
        return True
    return False
