"""Makes a model's ladder: what each placement costs, from the bytes of its parts and the traced activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runtime.fit.cost import Activations, ModelLadder, PhaseCost, Rung, TextToVideoWeights
from runtime.fit.placement import PLACEMENTS, MemoryPhase, Placement, Weights

TEXT_ENCODER = "text_encoder"
VAE = "vae"
TRANSFORMERS = ("transformer", "transformer_2")
"""The high-noise and the low-noise expert, or one transformer alone; one works at a time."""
TEXT_TO_VIDEO_TRANSFORMERS = ("t2v_transformer", "t2v_transformer_2")
"""A pair that renders `t2v` in their place, in the same order, where a model's folder has one."""
ALL_TRANSFORMERS = (*TRANSFORMERS, *TEXT_TO_VIDEO_TRANSFORMERS)

STREAMED_BLOCKS = 2
"""Blocks on the GPU while a part is streamed: one at work, one on its way."""

ACTIVATION_NAMES = ("text", "encode", "encode_tiled", "decode", "decode_tiled", "denoise", "denoise_lazy", "denoise_chunked")
"""What is traced for each model. `denoise_lazy` has VACE's hints computed when needed, `denoise_chunked` that and chunks; a model without
VACE has the plain figures under `denoise_lazy`."""

_TEXT_MODES = ("t2v",)
_PICTURE_MODES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"anisora": ("i2v", "first_last_frame", "arbitrary_frame"), "phr00t": ("i2v", "first_last_frame")}
)
_IMAGE_TO_VIDEO_MODELS = frozenset({"anisora"})
"""Their transformers need a condition in every mode: the encoding of a sparse video, for `t2v` of an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a pipeline, by the bytes of its weights as they are stored.

    Attributes:
        name: `text_encoder`, `vae`, or one of `ALL_TRANSFORMERS`.
        rest_bytes: of everything outside the blocks.
        block_bytes: of each block, in running order; empty for a part that is never streamed.
    """

    name: str
    rest_bytes: int
    block_bytes: tuple[int, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Of the whole part."""
        return self.rest_bytes + sum(self.block_bytes)

    @property
    def streamed_bytes(self) -> int:
        """Of what lies on the GPU while it is streamed: the rest, and room for two blocks of the largest kind."""
        return self.rest_bytes + STREAMED_BLOCKS * max(self.block_bytes, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """The parts of one model in one storage format."""

    model: str
    parts: tuple[Part, ...]

    @property
    def total_bytes(self) -> int:
        """Of all parts."""
        return sum(part.total_bytes for part in self.parts)


def build_ladder(parts: ModelParts, traced: Mapping[str, Activations]) -> ModelLadder:
    """The ladder of a model, fastest rung first.

    Args:
        parts: bytes of the weights, from the headers of the files.
        traced: activations by the names of `ACTIVATION_NAMES`.

    Raises:
        ValueError: a part that every pipeline has, or traced activations, are missing.
    """
    missing = [name for name in ACTIVATION_NAMES if name not in traced]
    if missing:
        msg = f"{parts.model}: no traced activations for {', '.join(missing)}"
        raise ValueError(msg)
    by_name = {part.name: part for part in parts.parts}
    if TEXT_ENCODER not in by_name or VAE not in by_name or not any(name in by_name for name in TRANSFORMERS):
        msg = f"{parts.model}: a pipeline needs a text encoder, a VAE and a transformer, not only {', '.join(by_name) or 'nothing'}"
        raise ValueError(msg)
    pair = [name in by_name for name in TEXT_TO_VIDEO_TRANSFORMERS]
    if any(pair) and not all(pair):
        msg = f"{parts.model}: a text-to-video pair is {' and '.join(TEXT_TO_VIDEO_TRANSFORMERS)}, not one of them"
        raise ValueError(msg)
    return ModelLadder(
        model=parts.model,
        rungs=tuple(_rung(placement, parts, by_name, traced) for placement in PLACEMENTS),
        text_to_video_weights=_text_to_video_weights(parts.model, has_pair=all(pair)),
    )


def _text_to_video_weights(model: str, *, has_pair: bool) -> str:
    if has_pair:
        return TextToVideoWeights.TEXT_TO_VIDEO_PAIR.value
    return TextToVideoWeights.IMAGE_TO_VIDEO_EXPERTS.value if model in _IMAGE_TO_VIDEO_MODELS else ""


def _rung(placement: Placement, parts: ModelParts, by_name: Mapping[str, Part], traced: Mapping[str, Activations]) -> Rung:
    total = parts.total_bytes
    tiled = "_tiled" if placement.is_vae_tiled else ""
    experts = [by_name[name] for name in TRANSFORMERS if name in by_name]
    pair = [by_name[name] for name in TEXT_TO_VIDEO_TRANSFORMERS if name in by_name]
    picture_modes = _PICTURE_MODES.get(parts.model, ())
    denoise = _denoise_name(placement)
    # Phase, the parts of which one works, what was traced for it, and the modes that have it (none: all). The VAE has no blocks, so it is
    # whole wherever it works. A pair's activations are those of the experts, less the condition's channels, so never more.
    phases: list[tuple[MemoryPhase, list[Part], str, tuple[str, ...]]] = [
        (MemoryPhase.TEXT, [by_name[TEXT_ENCODER]], "text", ()),
        (MemoryPhase.ENCODE, [by_name[VAE]], f"encode{tiled}", () if parts.model in _IMAGE_TO_VIDEO_MODELS and not pair else picture_modes),
        (MemoryPhase.DENOISE, experts, denoise, picture_modes if pair else ()),
    ]
    if pair:
        phases.append((MemoryPhase.DENOISE, pair, denoise, _TEXT_MODES))
    phases.append((MemoryPhase.DECODE, [by_name[VAE]], f"decode{tiled}", ()))
    return Rung(
        placement=placement.name,
        phases=tuple(
            PhaseCost(
                phase=phase,
                weights_bytes=total if placement.weights is Weights.ALL else max(_on_gpu(part, placement) for part in working),
                activations=traced[name],
                modes=modes,
            )
            for phase, working, name, modes in phases
        ),
        host_bytes=total,
        pinned_bytes=0 if placement.weights is Weights.ALL else total,
    )


def _denoise_name(placement: Placement) -> str:
    if placement.is_chunked:
        return "denoise_chunked"
    return "denoise_lazy" if placement.has_lazy_hints else "denoise"


def _on_gpu(part: Part, placement: Placement) -> int:
    """Bytes of a part while it works."""
    is_streamed = placement.weights is Weights.STREAMED and part.name != VAE
    return part.streamed_bytes if is_streamed else part.total_bytes
