"""Both models for the degraded pool: each load is handed to the lane that owns the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lane_anisora.pipeline import catalog as anisora
from lane_phr00t.pipeline import catalog as phr00t

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.lane.renderer import Catalog, LoadSettings, Pipeline


class BothModels:
    """Loads either model. It keeps none: one resident at a time is the caller's rule."""

    def __init__(self, *catalogs: Catalog) -> None:
        """Takes the catalogs; no two may have a model in common."""
        self._catalogs = {model: catalog for catalog in catalogs for model in catalog.models()}

    def models(self) -> tuple[str, ...]:
        """The models of all catalogs."""
        return tuple(self._catalogs)

    def load(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Loads it by the catalog that has it; raises ValueError when none has."""
        if model not in self._catalogs:
            msg = f"this catalog has {', '.join(self._catalogs)}, not {model!r}"
            raise ValueError(msg)
        return self._catalogs[model].load(model, settings, on_stage)


catalog: Catalog = BothModels(anisora, phr00t)
