"""Both models with random weights, at their real sizes or tiny, made in host memory without a file: for measurements of memory and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lane_anisora.pipeline import AnisoraModel
from lane_phr00t.pipeline import Phr00tModel, Phr00tRecipe
from runtime.fit.ladder import TEXT_ENCODER, ModelParts, build_ladder
from runtime.fit.traced import TRACED
from runtime.fit.workspaces import on_device
from runtime.lane.wan.catalog import WanCatalog
from runtime.lane.wan.networks import stored_types
from runtime.lane.wan.parts import layout_of, part_of
from runtime.lane.wan.skeleton import computed_buffers
from runtime.lane.wan.tiny import build_tokenizer
from runtime.lane.wan.tracing_networks import Subject, subjects
from runtime.lane.wan.weights import GroupWeights, WanWeights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runtime.fit.cost import ModelLadder
    from runtime.lane.renderer import HostWeights, LoadSettings, Pipeline
    from runtime.lane.wan.parts import GroupLayout, StoredTensor

_DEVIATION = 0.02
"""Of random matrices: what Wan's own code starts training with; nothing overflows in 40 layers of it."""


class RandomCatalog:
    """Both models, as the degraded pool has them. Implements `runtime.lane.renderer.Catalog`."""

    def __init__(self, folder: Path, *, is_tiny: bool) -> None:
        """Writes configurations and tokenizers into the folder; no weights."""
        profile = "tiny" if is_tiny else "a10g"
        found = {subject.model: subject for subject in subjects() if subject.profile == profile}
        self._models = {model: _RandomModel(made, found[model], folder / model) for model, made in _MODELS.items()}

    def models(self) -> tuple[str, ...]:
        """Both."""
        return tuple(self._models)

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """From the sizes of the networks and the shipped activations."""
        return self._models[model].ladder(model, settings)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Makes random weights, on the device where it is a GPU, and brings them to host memory."""
        return self._models[model].read(model, settings, on_stage)

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """The product's own."""
        return self._models[model].assemble(model, weights, settings, on_stage)


class _NewestPhr00t(Phr00tModel):
    """With the sampler of Mega v12, which keeps the most on the device and takes the most passes."""

    def make_recipe(self, variant: str) -> Phr00tRecipe:
        return super().make_recipe(variant or "mega-v12")


_MODELS = {"anisora": AnisoraModel(), "phr00t": _NewestPhr00t()}


class _RandomModel(WanCatalog):
    """One model whose folder has configurations only."""

    def __init__(self, model: Any, subject: Subject, folder: Path) -> None:
        super().__init__(model)
        self._subject = subject
        self._configurations = folder
        write_configurations(subject, folder)

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        parts = tuple(part_of(name, layout) for name, layout in self._layouts().items())
        activations = on_device(settings.memory.device, TRACED[self._subject.key].activations)
        return build_ladder(ModelParts(model=model, parts=parts), activations)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        layouts = self._layouts()
        modules = self._skeletons(self._configurations)
        buffers = iter(settings.memory.host_buffers([group.size_bytes for layout in layouts.values() for group in layout]))
        parts: dict[str, tuple[GroupWeights, ...]] = {}
        generator = torch.Generator(settings.memory.device).manual_seed(1)
        for name, layout in layouts.items():
            on_stage(f"making {name}")
            computed = computed_buffers(modules[name])
            parts[name] = tuple(
                GroupWeights(layout=group, pieces=((0, _filled(next(buffers), group, computed, generator)),)) for group in layout
            )
        return WanWeights(folder=self._configurations, parts=parts, is_mapped=False)

    def _folder(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Path:
        return self._configurations

    def _layouts(self) -> dict[str, tuple[GroupLayout, ...]]:
        modules = self._skeletons(self._configurations)
        storage = self._subject.storages[0]
        return {name: layout_of(name, module, stored_types(name, module, storage)) for name, module in modules.items()}


def write_configurations(subject: Subject, folder: Path) -> None:
    build_tokenizer().save_pretrained(folder / "tokenizer")
    for name in subject.parts:
        module = subject.build(name, True)
        if name == TEXT_ENCODER:
            module.config.save_pretrained(folder / name)
        else:
            module.save_config(folder / name)


def _filled(buffer: torch.Tensor, group: GroupLayout, computed: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    for stored in group.tensors:
        stored.view(buffer).copy_(computed[stored.name] if stored.name in computed else filled_tensor(stored, generator))
    return buffer


def filled_tensor(stored: StoredTensor, generator: torch.Generator) -> torch.Tensor:
    """Matrices are random, scales are one, biases are zero; so the numbers stay finite whatever the depth."""
    device = generator.device
    if len(stored.shape) < 2:
        is_scale = stored.name.endswith(("weight", "gamma"))
        return torch.full(stored.shape, 1.0 if is_scale else 0.0, device=device).to(stored.dtype)
    made = torch.empty(stored.shape, device=device, dtype=torch.float32).normal_(0.0, _DEVIATION, generator=generator)
    if stored.name.endswith("gamma"):
        made.fill_(1.0)
    return made.to(stored.dtype)
