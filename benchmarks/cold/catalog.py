"""Catalogs that open the folders of this benchmark with the product's own code, whatever their width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lane_anisora.pipeline import AnisoraModel
from lane_phr00t.pipeline import Phr00tModel
from runtime.fit.ladder import ModelParts, build_ladder
from runtime.fit.traced import TRACED
from runtime.lane.wan.catalog import WanCatalog
from runtime.lane.wan.parts import part_of
from runtime.lane.wan.weights import stored_layouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.fit.cost import ModelLadder
    from runtime.lane.renderer import Catalog, LoadSettings


class _ColdCatalog(WanCatalog):
    """Reads and assembles as the product does; activations are those of the published sizes, so that nothing is traced."""

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        layouts = stored_layouts(folder := settings.models_dir / model, self._skeletons(folder))
        parts = ModelParts(model=model, parts=tuple(part_of(name, layout) for name, layout in layouts.items()))
        return build_ladder(parts, TRACED[model].activations)

    def _folder(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Path:
        return settings.models_dir / model


anisora: Catalog = _ColdCatalog(AnisoraModel())
phr00t: Catalog = _ColdCatalog(Phr00tModel())
