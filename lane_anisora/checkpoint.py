"""What is published of AniSora V3.2: two experts by their authors, the rest by Wan's; and the text-to-video pair that may go with them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from lane_anisora import params
from runtime.fit.ladder import TEXT_ENCODER, TRANSFORMERS, VAE
from runtime.lane.prepare.checkpoint import Checkpoint, Part, Publication, Source, SourceKind
from runtime.lane.prepare.naming import Naming
from runtime.lane.prepare.recognise import kind_of
from runtime.lane.wan import networks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from runtime.lane.prepare.published import PublishedTensor

_EXPERTS = "IndexTeam/Index-anisora"
_BASE = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
_TEXT_TO_VIDEO = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
_LICENCE = "apache-2.0"
"""Of all of them, by their pages on the hub (facts/models.md, section 1)."""

_FILE = "diffusion_pytorch_model.safetensors"
_HIGH, _LOW = TRANSFORMERS


def _recognise(source: str, tensors: Mapping[str, PublishedTensor]) -> str:
    return "" if source == "base" else kind_of(tensors)


def _expert(name: str, title: str, publication: Publication, *, is_optional: bool = False) -> Source:
    is_high = name.endswith("high")
    return Source(
        name=name,
        title=title,
        kind=SourceKind.WEIGHTS,
        published=MappingProxyType({"": publication}),
        licence=_LICENCE,
        says="high" if is_high else "low",
        says_not="low" if is_high else "high",
        is_optional=is_optional,
    )


def _transformer(folder: str, network: str, source: str, build: Callable[..., torch.nn.Module]) -> Part:
    return Part(folder=folder, network=network, sizes_key="transformer", build=build, source=source, naming=Naming.TRANSFORMER)


def _text_to_video_expert(**sizes: object) -> torch.nn.Module:
    """A file of sizes gives one transformer; this pair differs by its channels whatever the size."""
    made: torch.nn.Module = networks.build_text_to_video_expert(**{key: value for key, value in sizes.items() if key != "in_channels"})
    return made


CHECKPOINT = Checkpoint(
    model=params.MODEL,
    variants=("v3.2",),
    sources=(
        _expert("high", "the high-noise expert", Publication(repository=_EXPERTS, file=f"V3.2/high_noise_model/{_FILE}")),
        _expert("low", "the low-noise expert", Publication(repository=_EXPERTS, file=f"V3.2/low_noise_model/{_FILE}")),
        Source(
            name="base",
            title="text encoder, tokenizer and VAE",
            kind=SourceKind.FOLDER,
            published=MappingProxyType({"": Publication(repository=_BASE, file="")}),
            licence=_LICENCE,
            subfolders=("tokenizer", TEXT_ENCODER, VAE),
        ),
        _expert(
            "t2v-high", "the high-noise text-to-video expert", Publication(repository=_TEXT_TO_VIDEO, file="transformer"), is_optional=True
        ),
        _expert(
            "t2v-low", "the low-noise text-to-video expert", Publication(repository=_TEXT_TO_VIDEO, file="transformer_2"), is_optional=True
        ),
    ),
    parts=(
        Part(
            folder=TEXT_ENCODER,
            network=TEXT_ENCODER,
            sizes_key=TEXT_ENCODER,
            build=networks.build_text_encoder,
            source="base",
            subfolder=TEXT_ENCODER,
            naming=Naming.AS_IS,
        ),
        Part(folder=VAE, network=VAE, sizes_key=VAE, build=networks.build_vae, source="base", subfolder=VAE, naming=Naming.AS_IS),
        _transformer(_HIGH, _HIGH, "high", networks.build_expert),
        _transformer(_LOW, _LOW, "low", networks.build_expert),
        _transformer("t2v_transformer", _HIGH, "t2v-high", _text_to_video_expert),
        _transformer("t2v_transformer_2", _LOW, "t2v-low", _text_to_video_expert),
    ),
    tokenizer_source="base",
    recognise=_recognise,
)
"""Everything. The names of the text-to-video pair's folders are what the lane looks for."""
