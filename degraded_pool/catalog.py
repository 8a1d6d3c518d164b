"""Both models for the degraded pool: everything is handed to the lane that owns the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lane_anisora.pipeline import catalog as anisora
from lane_phr00t.pipeline import catalog as phr00t

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.fit.cost import ModelLadder
    from runtime.lane.renderer import Catalog, HostWeights, LoadSettings, Pipeline


class BothModels:
    """Loads either model. It keeps none: one resident at a time is the caller's rule."""

    def __init__(self, *catalogs: Catalog) -> None:
        """Takes the catalogs; no two may have a model in common."""
        self._catalogs = {model: catalog for catalog in catalogs for model in catalog.models()}

    def models(self) -> tuple[str, ...]:
        """The models of all catalogs."""
        return tuple(self._catalogs)

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """By the catalog that has the model; raises ValueError when none has, as all of these do."""
        return self._of(model).ladder(model, settings)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """By the catalog that has the model."""
        return self._of(model).read(model, settings, on_stage)

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """By the catalog that has the model."""
        return self._of(model).assemble(model, weights, settings, on_stage)

    def _of(self, model: str) -> Catalog:
        if model not in self._catalogs:
            msg = f"this catalog has {', '.join(self._catalogs)}, not {model!r}"
            raise ValueError(msg)
        return self._catalogs[model]


catalog: Catalog = BothModels(anisora, phr00t)
