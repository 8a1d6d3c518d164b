"""What is published of Phr00t Mega: one ComfyUI file with transformer, text encoder and VAE; the tokenizer is Wan's."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from lane_phr00t import params
from runtime.fit.ladder import TEXT_ENCODER, TRANSFORMERS, VAE
from runtime.lane.prepare.checkpoint import Checkpoint, Part, Publication, Source, SourceKind
from runtime.lane.prepare.naming import Naming
from runtime.lane.prepare.recognise import kind_of
from runtime.lane.wan import networks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.lane.prepare.published import PublishedTensor

_REPOSITORY = "Phr00t/WAN2.2-14B-Rapid-AllInOne"
_LICENCE = "apache-2.0"
"""Of both, by their pages on the hub (facts/models.md, section 2)."""

TRANSFORMER_PREFIX = "model.diffusion_model."
TEXT_ENCODER_PREFIX = "text_encoders.umt5xxl.transformer."
VAE_PREFIX = "vae."

_TOKENIZER_MODEL = "SentencePiece's file of the tokenizer as bytes; the tokenizer comes from Wan's repository"

_IGNORED = MappingProxyType(
    {
        "text_encoders.spiece_model": _TOKENIZER_MODEL,
        "text_encoders.umt5xxl.spiece_model": _TOKENIZER_MODEL,
        f"{TEXT_ENCODER_PREFIX}spiece_model": _TOKENIZER_MODEL,
        "text_encoders.umt5xxl.logit_scale": "a number that ComfyUI's wrapper gives every text encoder and reads of CLIP's only",
    }
)
"""Nothing else: what is not a tensor of a network and not here stops the preparation."""


def _publication(version: str) -> Publication:
    return Publication(repository=_REPOSITORY, file=f"Mega-{version}/wan2.2-rapid-mega-aio-{version}.safetensors")


def _recognise(_source: str, tensors: Mapping[str, PublishedTensor]) -> str:
    kind = kind_of(tensors, TRANSFORMER_PREFIX)
    return "" if "VACE" in kind else kind


CHECKPOINT = Checkpoint(
    model=params.MODEL,
    variants=("mega-v12", "mega-v11"),
    sources=(
        Source(
            name="checkpoint",
            title="the all-in-one file",
            kind=SourceKind.WEIGHTS,
            published=MappingProxyType({"mega-v12": _publication("v12"), "mega-v11": _publication("v11")}),
            licence=_LICENCE,
        ),
        Source(
            name="base",
            title="the tokenizer",
            kind=SourceKind.FOLDER,
            published=MappingProxyType({"": Publication(repository="Wan-AI/Wan2.2-I2V-A14B-Diffusers", file="")}),
            licence=_LICENCE,
            subfolders=("tokenizer",),
        ),
    ),
    parts=(
        Part(
            folder=TEXT_ENCODER,
            network=TEXT_ENCODER,
            sizes_key=TEXT_ENCODER,
            build=networks.build_text_encoder,
            source="checkpoint",
            prefix=TEXT_ENCODER_PREFIX,
            naming=Naming.AS_IS,
        ),
        Part(
            folder=VAE,
            network=VAE,
            sizes_key=VAE,
            build=networks.build_vae,
            source="checkpoint",
            prefix=VAE_PREFIX,
            naming=Naming.NATIVE_VAE,
        ),
        Part(
            folder=TRANSFORMERS[0],
            network=TRANSFORMERS[0],
            sizes_key="transformer",
            build=networks.build_vace,
            source="checkpoint",
            prefix=TRANSFORMER_PREFIX,
            naming=Naming.TRANSFORMER,
        ),
    ),
    tokenizer_source="base",
    recognise=_recognise,
    ignored=_IGNORED,
    says_variant=MappingProxyType({"v11": "mega-v11", "v12": "mega-v12"}),
)
"""Everything."""
