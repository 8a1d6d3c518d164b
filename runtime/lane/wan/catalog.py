"""A catalog of one Wan model: its ladder, its weights, its pipeline, all from one folder and one description."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast

from runtime.fit.ladder import TEXT_ENCODER, VAE, ModelParts, build_ladder
from runtime.lane.wan.components import compute_types, model_folder, silence_libraries
from runtime.lane.wan.lean import cast_at_use
from runtime.lane.wan.loaded import LoadedWanPipeline
from runtime.lane.wan.parts import part_of
from runtime.lane.wan.placing import PlacedPart, Placer
from runtime.lane.wan.skeleton import make_diffusers_part, make_text_encoder, set_compute
from runtime.lane.wan.traces import activations_of
from runtime.lane.wan.weights import WanWeights, map_weights, read_weights, stored_layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from diffusers import DiffusionPipeline

    from runtime.fit.cost import ModelLadder
    from runtime.lane.renderer import HostWeights, LoadSettings, Pipeline
    from runtime.lane.wan.loaded import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSource:
    """A part of a model beside the text encoder and the VAE. `title` is for people; `part_class` is diffusers'."""

    title: str
    part_class: type


class WanModel(Protocol):
    """What differs from model to model."""

    @property
    def name(self) -> str:
        """Its id."""
        ...

    @property
    def transformers(self) -> Mapping[str, PartSource]:
        """By part name: `transformer`, and `transformer_2` where there are two experts."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How its jobs become calls."""
        ...

    def build_tiny(self, folder: Path) -> None:
        """Saves tiny parts into an empty folder."""
        ...

    def make_pipeline(self, components: Mapping[str, Any]) -> DiffusionPipeline:
        """A pipeline of `tokenizer`, `text_encoder`, `vae` and the transformers."""
        ...


class WanCatalog:
    """Loads one Wan model. Implements `runtime.lane.renderer.Catalog`."""

    def __init__(self, model: WanModel) -> None:
        """Loads nothing yet."""
        self._model = model

    def models(self) -> tuple[str, ...]:
        """The one."""
        return (self._model.name,)

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """What each placement costs; reads headers only. Traces the networks once when nothing is known of their configuration.

        Raises:
            ValueError: another model, or an unknown profile.
            ModelFolderError: its checkpoint is not there, or not whole, or another's.
            WeightsError: its files are not what the networks need.
        """
        folder = self._folder(model, settings, _ignore)
        modules = self._skeletons(folder)
        layouts = stored_layouts(folder, modules)
        parts = ModelParts(model=model, parts=tuple(part_of(name, layout) for name, layout in layouts.items()))
        return build_ladder(parts, activations_of(model, settings.profile, settings.models_dir, modules))

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Brings the weights to host memory, or maps them from disk on a host that is poor. Raises as `ladder`."""
        folder = self._folder(model, settings, on_stage)
        modules = self._skeletons(folder)
        if settings.is_host_poor:
            on_stage("mapping the weights from disk")
            return map_weights(folder, modules)
        return read_weights(folder, modules, settings.memory, lambda name: on_stage(f"loading {self._title(name)}"))

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Makes a pipeline of weights that `read` gave; nothing is on the device yet. Raises TypeError for any other weights."""
        self._check(model)
        if not isinstance(weights, WanWeights):
            msg = f"weights of another kind: {type(weights).__name__}"
            raise TypeError(msg)
        silence_libraries()
        on_stage("assembling the pipeline")
        modules, types = self._skeletons(weights.folder), compute_types(settings.profile, settings.memory)
        placed = {name: PlacedPart(name, module, weights.parts[name]) for name, module in modules.items()}
        for name, module in modules.items():
            cast_at_use(module, types[name])
            set_compute(module, torch.device(settings.memory.device), types[name])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(weights.folder / "tokenizer", local_files_only=True)
        pipe = self._model.make_pipeline({"tokenizer": tokenizer, **modules})
        return LoadedWanPipeline(pipe, self._model.recipe, Placer(settings.memory, placed), settings.memory)

    def _folder(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Path:
        self._check(model)
        silence_libraries()
        return model_folder(model, settings.profile, settings.models_dir, build_tiny=self._model.build_tiny, on_stage=on_stage)

    def _check(self, model: str) -> None:
        if model != self._model.name:
            msg = f"this catalog has {self._model.name}, not {model!r}"
            raise ValueError(msg)

    def _skeletons(self, folder: Path) -> dict[str, torch.nn.Module]:
        makers: dict[str, Callable[[Path], torch.nn.Module]] = {
            TEXT_ENCODER: make_text_encoder,
            VAE: partial(make_diffusers_part, AutoencoderKLWan),
        }
        makers |= {name: partial(make_diffusers_part, source.part_class) for name, source in self._model.transformers.items()}
        return {name: make(folder / name) for name, make in makers.items()}

    def _title(self, name: str) -> str:
        titles = {TEXT_ENCODER: "the text encoder", VAE: "the VAE"}
        return titles[name] if name in titles else self._model.transformers[name].title


def _ignore(_stage: str) -> None:
    """A ladder tells no stages."""
