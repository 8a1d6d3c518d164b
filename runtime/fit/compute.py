"""The arithmetic of a denoising step and the time that it takes a GPU at the least: calculated, for when nothing was measured.

One pass of a Wan transformer over n latent tokens takes

    n * (2 * parameters + 4 * width * layers * n)   floating-point operations,

the first for the matrices that every token goes through, the second for attention, which every token pays to every other. So twice the clip
takes more than twice the time: at 29,800 tokens both parts are equal, a clip of 480x832x81 has 32,760, one of 720x1280x81 has 75,600.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_WIDTH = 5120
_LAYERS = 40
_TOKEN_PARAMETERS = 12.19e9
"""Of an expert of 14.29 billion (facts/models.md, section 4), less the keys and values of cross-attention, 2 * 5120 * 5120 in each layer,
which only the text goes through. 1.68 PFLOP at 480x832x81 and 6.52 at 720x1280x81, as the facts have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    """What a model's render consists of.

    Attributes:
        share: work of one pass, an expert's being 1. VACE has 8 control blocks beside 40 (facts: 2.03 to 1.68 PFLOP).
        passes: of the transformer in a render without guidance; the most that any version of the model takes.
    """

    share: float
    passes: int


DENOISING: Mapping[str, Denoising] = MappingProxyType(
    {
        "anisora": Denoising(share=1.0, passes=8),
        # 4 steps: 4 passes with Euler-ancestral, 7 with DPM++ SDE.
        "phr00t": Denoising(share=1.208, passes=7),
    }
)

PEAK_FLOPS: Mapping[str, float] = MappingProxyType(
    {
        # facts/models.md, section 4: ten public tables agree on 70; 125 is the A10, another card.
        "NVIDIA A10G": 70e12,
        # The vendor's data sheets: dense matrix throughput of bf16 (T4: fp16) with float32 sums.
        "Tesla T4": 65e12,
        "NVIDIA L4": 121e12,
        "NVIDIA L40S": 362e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
    }
)
"""Floating-point operations a second, by torch's name of the GPU. No render comes near: what it gives is a least time."""


def pass_flops(model: str, tokens: int) -> float:
    """Of one pass of the model's transformer. Raises KeyError for an unknown model."""
    return DENOISING[model].share * tokens * (2.0 * _TOKEN_PARAMETERS + 4.0 * _WIDTH * _LAYERS * tokens)


def growth(tokens: int, measured_tokens: int) -> float:
    """How much longer a token takes in a clip of so many than in a smaller one that was measured: attention. 1 where it is no larger."""
    if tokens <= measured_tokens:
        return 1.0
    even = 2.0 * _TOKEN_PARAMETERS / (4.0 * _WIDTH * _LAYERS)
    return (even + tokens) / (even + max(0, measured_tokens))


def least_denoising_s(model: str, tokens: int, gpu: str, passes: int | None = None) -> float | None:
    """Seconds that denoising takes on the GPU at its peak; None for a GPU or a model of which nothing is known.

    `passes`: of the transformer; the most that a render without guidance takes when None.
    """
    peak = PEAK_FLOPS.get(gpu)
    if peak is None or model not in DENOISING:
        return None
    return pass_flops(model, tokens) * (DENOISING[model].passes if passes is None else passes) / peak
