"""Both models by the figures of the facts (facts/models.md, section 4), so that examples can be calculated by hand."""

from __future__ import annotations

from runtime.fit.cost import Activations, DeviceLimits
from runtime.fit.ladder import ModelParts, Part
from runtime.fit.traced import TracedModel

GIB = 1024**3
BLOCK = 351_394_304

# 40 blocks at a byte a parameter; the rest makes 13.53 and 16.37 GiB.
EXPERT_BYTES = round(13.53 * GIB)
VACE_BYTES = round(16.37 * GIB)
TEXT_ENCODER = Part(name="text_encoder", rest_bytes=2_100_000_000, block_bytes=(386_000_000,) * 24)
VAE = Part(name="vae", rest_bytes=253_785_062)


def transformer(name: str, total_bytes: int, blocks: int) -> Part:
    """With equal blocks."""
    return Part(name=name, rest_bytes=total_bytes - blocks * BLOCK, block_bytes=(BLOCK,) * blocks)


ANISORA_PARTS = ModelParts(
    model="anisora",
    parts=(TEXT_ENCODER, VAE, transformer("transformer", EXPERT_BYTES, 40), transformer("transformer_2", EXPERT_BYTES, 40)),
)
PHR00T_PARTS = ModelParts(model="phr00t", parts=(TEXT_ENCODER, VAE, transformer("transformer", VACE_BYTES, 48)))


def activations(per_token: float, lazy: float, chunked: float) -> dict[str, Activations]:
    """The transformer by bytes a token; text encoder and VAE as the facts have them: 2.95 and 3.95 GiB at 480x832x81 for the plain VAE."""
    return {
        "text": Activations(fixed=0.12 * GIB),
        "encode": Activations(per_frame_pixel=2.95 * GIB / (480 * 832 * 81)),
        "encode_tiled": Activations(fixed=0.44 * GIB, per_pixel=535.0),
        "decode": Activations(per_frame_pixel=3.95 * GIB / (480 * 832 * 81)),
        "decode_tiled": Activations(fixed=0.02 * GIB, per_pixel=2262.0),
        "denoise": Activations(per_token=per_token),
        "denoise_lazy": Activations(per_token=lazy),
        "denoise_chunked": Activations(fixed=0.25 * GIB, per_token=chunked),
    }


ANISORA = TracedModel(
    model="anisora",
    profile="a10g",
    fingerprint="of a test",
    activations=activations(22.3 * 5120, 22.3 * 5120, 8.0 * 5120),
    parts={"fp8": ANISORA_PARTS},
)
PHR00T = TracedModel(
    model="phr00t",
    profile="a10g",
    fingerprint="of a test",
    activations=activations(40.4 * 5120, 24.0 * 5120, 10.0 * 5120),
    parts={"fp8": PHR00T_PARTS},
)


def limits(budget_gib: float, *, host_gib: float = 64.0, pinned_gib: float = 48.0) -> DeviceLimits:
    """A device with this budget, after 0.5 GiB each for the rest and the margin."""
    return DeviceLimits(
        gpu="a test's",
        total_bytes=round((budget_gib + 1.0) * GIB),
        other_bytes=GIB // 2,
        margin_bytes=GIB // 2,
        host_bytes=round(host_gib * GIB),
        pinned_limit_bytes=round(pinned_gib * GIB),
    )
