"""Makes a model's ladder: what each placement costs, from the bytes of its parts and the traced activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runtime.fit.cost import Activations, ModelLadder, PhaseCost, Rung
from runtime.fit.placement import PLACEMENTS, MemoryPhase, Placement, Weights

TEXT_ENCODER = "text_encoder"
VAE = "vae"
TRANSFORMERS = ("transformer", "transformer_2")
"""The high-noise and the low-noise expert, or one transformer alone; one works at a time."""

STREAMED_BLOCKS = 2
"""Blocks on the GPU while a part is streamed: one at work, one on its way."""

ACTIVATION_NAMES = ("text", "encode", "encode_tiled", "decode", "decode_tiled", "denoise", "denoise_lazy", "denoise_chunked")
"""What is traced for each model. `denoise_lazy` has VACE's hints computed when needed, `denoise_chunked` that and chunks; a model without
VACE has the plain figures under `denoise_lazy`."""

# AniSora encodes a sparse video in every mode, an empty one for t2v. VACE without keyframes encodes nothing.
_ENCODING_MODES: Mapping[str, tuple[str, ...]] = MappingProxyType({"phr00t": ("i2v", "first_last_frame")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a pipeline, by the bytes of its weights as they are stored.

    Attributes:
        name: `text_encoder`, `vae`, `transformer` or `transformer_2`.
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
    return ModelLadder(model=parts.model, rungs=tuple(_rung(placement, parts, by_name, traced) for placement in PLACEMENTS))


def _rung(placement: Placement, parts: ModelParts, by_name: Mapping[str, Part], traced: Mapping[str, Activations]) -> Rung:
    total = parts.total_bytes
    tiled = "_tiled" if placement.is_vae_tiled else ""
    experts = [by_name[name] for name in TRANSFORMERS if name in by_name]
    # Phase, the parts of which one works, and what was traced for it. The VAE has no blocks, so it is whole wherever it works.
    phases = (
        (MemoryPhase.TEXT, [by_name[TEXT_ENCODER]], "text"),
        (MemoryPhase.ENCODE, [by_name[VAE]], f"encode{tiled}"),
        (MemoryPhase.DENOISE, experts, _denoise_name(placement)),
        (MemoryPhase.DECODE, [by_name[VAE]], f"decode{tiled}"),
    )
    return Rung(
        placement=placement.name,
        phases=tuple(
            PhaseCost(
                phase=phase,
                weights_bytes=total if placement.weights is Weights.ALL else max(_on_gpu(part, placement) for part in working),
                activations=traced[name],
                modes=_ENCODING_MODES.get(parts.model, ()) if phase is MemoryPhase.ENCODE else (),
            )
            for phase, working, name in phases
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
