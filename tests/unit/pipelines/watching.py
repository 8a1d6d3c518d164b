"""A device's memory that tells what weights lie on it, and a placed pipeline with it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.lane.memory.budget import BudgetMemory
from tests.unit.pipelines.jobs import load, settings

if TYPE_CHECKING:
    import torch

    from runtime.lane.renderer import Catalog, Pipeline

BOTH = ("anisora", "phr00t")
ROOM = 1024**3


class WatchingMemory(BudgetMemory):
    """Knows the buffers for weights that are alive, and notes every copy by its source."""

    def __init__(self, budget_bytes: int = ROOM) -> None:
        """Empty."""
        super().__init__(budget_bytes)
        self.copied: list[int] = []
        self.made: list[weakref.ref[torch.UntypedStorage]] = []

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """Notes the buffer."""
        buffer = super().allocate(size_bytes)
        self.made.append(weakref.ref(buffer.untyped_storage()))
        return buffer

    def begin_copy(self, source: torch.Tensor, target: torch.Tensor) -> object:
        """Notes the source's address."""
        self.copied.append(source.data_ptr())
        return super().begin_copy(source, target)

    @property
    def buffers(self) -> list[torch.UntypedStorage]:
        """For weights, alive."""
        return [storage for reference in self.made if (storage := reference()) is not None]

    @property
    def weight_bytes(self) -> int:
        """On the device."""
        return sum(storage.nbytes() for storage in self.buffers)


def catalog_of(model: str) -> Catalog:
    """The lane's."""
    from lane_anisora.pipeline import catalog as anisora
    from lane_phr00t.pipeline import catalog as phr00t

    return {"anisora": anisora, "phr00t": phr00t}[model]


def place(
    model: str, models_dir: Path, *, budget_bytes: int = ROOM, profile: str = "tiny", is_host_poor: bool = False
) -> tuple[Pipeline, WatchingMemory]:
    """A pipeline and the memory that it works in."""
    memory = WatchingMemory(budget_bytes)
    return load(catalog_of(model), model, settings(models_dir, profile, memory, is_host_poor=is_host_poor)), memory


def placed_parts(pipeline: Pipeline) -> dict[str, Any]:
    """The parts inside, as they are placed."""
    parts: dict[str, Any] = vars(vars(pipeline)["_placer"])["_parts"]
    return parts
