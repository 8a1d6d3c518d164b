"""A catalog of one Wan model: its ladder, its weights, its pipeline, all from one folder and one description."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast

from runtime.fit.ladder import (
    ALL_TRANSFORMERS,
    TEXT_ENCODER,
    TEXT_TO_VIDEO_TRANSFORMERS,
    TRANSFORMERS,
    VAE,
    ModelParts,
    build_ladder,
)
from runtime.fit.workspaces import on_device
from runtime.lane.wan.attention import choose_backend, offer_of, set_backend
from runtime.lane.wan.compiling import can_compile, compile_blocks
from runtime.lane.wan.components import compute_types, model_folder, silence_libraries
from runtime.lane.wan.headers import WeightsError
from runtime.lane.wan.kept import Networks
from runtime.lane.wan.lean import cast_at_use
from runtime.lane.wan.loaded import LoadedWanPipeline, Pipes
from runtime.lane.wan.manifest import variant_of
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
    """A part of a model beside the text encoder and the VAE. `title` is for people; `part_class` is diffusers'.

    Attributes:
        text_to_video_of: set for a part of a text-to-video pair, which a folder may have: the part in whose place it works.
    """

    title: str
    part_class: type
    text_to_video_of: str = ""


class WanModel(Protocol):
    """What differs from model to model."""

    @property
    def name(self) -> str:
        """Its id."""
        ...

    @property
    def transformers(self) -> Mapping[str, PartSource]:
        """By part name: `transformer`, and `transformer_2` where there are two experts; then those that only some folders have."""
        ...

    def make_recipe(self, variant: str) -> Recipe:
        """How jobs become calls, with a checkpoint of this variant; empty: of none. Raises ValueError for a variant that is not served."""
        ...

    def build_tiny(self, folder: Path) -> None:
        """Saves tiny parts into an empty folder."""
        ...

    def make_pipeline(self, components: Mapping[str, Any]) -> DiffusionPipeline:
        """A pipeline of `tokenizer`, `text_encoder`, `vae` and `TRANSFORMERS`."""
        ...

    def make_text_to_video(self, components: Mapping[str, Any]) -> DiffusionPipeline | None:
        """The pipeline of `t2v` alone, of the same but for its own transformers, for a folder with such a pair; None: of no use."""
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
        # What was traced holds for a text-to-video pair too: it is the same network with fewer channels going in.
        traced = {name: module for name, module in modules.items() if name not in TEXT_TO_VIDEO_TRANSFORMERS}
        activations = activations_of(model, settings.profile, settings.models_dir, traced)
        return build_ladder(parts, on_device(settings.memory.device, activations))

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Brings the weights to host memory, or maps them from disk on a host that is poor. Raises as `ladder`."""
        folder = self._folder(model, settings, on_stage)
        modules = self._skeletons(folder)
        if settings.is_host_poor:
            on_stage("mapping the weights from disk")
            return map_weights(folder, modules)
        return read_weights(folder, modules, settings.memory, lambda name: on_stage(f"loading {self._title(name)}"), settings.on_read)

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Makes a pipeline of weights that `read` gave; nothing is on the device yet. Raises TypeError for any other weights."""
        self._check(model)
        if not isinstance(weights, WanWeights):
            msg = f"weights of another kind: {type(weights).__name__}"
            raise TypeError(msg)
        silence_libraries()
        on_stage("assembling the pipeline")
        types = compute_types(settings.profile, settings.memory)
        purpose = (settings.memory.device, *types.values())
        networks = weights.networks.take(purpose) or self._make_networks(weights, purpose, torch.device(settings.memory.device), types)
        placed, tokenizer, modules = dict(networks.parts), networks.tokenizer, networks.modules
        pair = {name: modules.pop(part) for name, part in zip(TRANSFORMERS, TEXT_TO_VIDEO_TRANSFORMERS, strict=True) if part in modules}
        main = self._model.make_pipeline({"tokenizer": tokenizer, **modules})
        text_to_video = self._model.make_text_to_video({"tokenizer": tokenizer, **modules, **pair}) if pair else None
        transformers = [part.module for name, part in placed.items() if name in ALL_TRANSFORMERS]
        set_backend(
            transformers,
            choose_backend(settings.attention_backend, offer_of(torch.device(settings.memory.device), types[TRANSFORMERS[0]])),
        )
        is_compiled = settings.is_compiled and can_compile(torch.device(settings.memory.device))
        if is_compiled:
            compile_blocks(transformers)
        recipe = self._model.make_recipe(variant_of(weights.folder))
        # Compiled code is let go of with the networks that it was made for.
        keep = None if is_compiled else partial(weights.networks.put, networks)
        pipes = Pipes(main=main, text_to_video=text_to_video, is_compiled=is_compiled, keep=keep)
        return LoadedWanPipeline(pipes, recipe, Placer(settings.memory, placed), settings.memory, weights.embeddings)

    def _make_networks(
        self, weights: WanWeights, purpose: tuple[object, ...], device: torch.device, types: Mapping[str, torch.dtype]
    ) -> Networks:
        modules = self._skeletons(weights.folder)
        parts = {name: PlacedPart(name, module, weights.parts[name]) for name, module in modules.items()}
        for name, module in modules.items():
            cast_at_use(module, types[name])
            set_compute(module, device, types[name])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(weights.folder / "tokenizer", local_files_only=True)
        return Networks(purpose=purpose, parts=parts, tokenizer=tokenizer)

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
        sources = self._model.transformers
        there = {name: source for name, source in sources.items() if not source.text_to_video_of or (folder / name).is_dir()}
        makers |= {name: partial(make_diffusers_part, source.part_class) for name, source in there.items()}
        modules = {name: make(folder / name) for name, make in makers.items()}
        _check_pair(modules, {name: source.text_to_video_of for name, source in sources.items() if source.text_to_video_of})
        return modules

    def _title(self, name: str) -> str:
        titles = {TEXT_ENCODER: "the text encoder", VAE: "the VAE"}
        return titles[name] if name in titles else self._model.transformers[name].title


def _check_pair(modules: Mapping[str, torch.nn.Module], pair: Mapping[str, str]) -> None:
    """Raises WeightsError when a folder has half of a text-to-video pair, or one that differs from the experts in more than the
    channels."""
    there = [name for name in pair if name in modules]
    if there and len(there) < len(pair):
        msg = f"the folder has {there[0]} alone: a text-to-video pair is {' and '.join(pair)}"
        raise WeightsError(msg)
    for name in there:
        own, expert = (_config_of(modules[one]) for one in (name, pair[name]))
        different = sorted(key for key in own.keys() | expert.keys() if key != "in_channels" and own.get(key) != expert.get(key))
        if different or own["in_channels"] != own["out_channels"]:
            msg = f"{name} is not the text-to-video form of {pair[name]}: see {', '.join(different) or 'in_channels'} in its configuration"
            raise WeightsError(msg)


def _config_of(module: Any) -> dict[str, Any]:
    return {name: value for name, value in module.config.items() if not name.startswith("_")}


def _ignore(_stage: str) -> None:
    """A ladder tells no stages."""
