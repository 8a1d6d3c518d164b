"""What the libraries take of a GPU's memory beside live tensors, as measured: a trace counts live tensors only.

Measured on an H100 with cuDNN 9.19 and cuBLAS of CUDA 13.0 (docs/measurements). Other GPUs may choose other kernels with other workspaces;
the margin is for these, and what a lane measures above its predictions corrects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runtime.fit.cost import Activations

CUBLAS_BYTES = 34_603_008
"""33 MiB, alive from the first matrix product on, whatever is released. Of denoising the trace is above what was measured by more."""

CONVOLUTION_BYTES_PER_PIXEL = 1_152
"""Of the frame that the VAE works on: a copy of 6 frames of 96 channels in bf16, which the convolutions of its widest level make."""

_TILE_PIXELS = 256 * 256

_ROUNDING_BYTES = 2 * 1024**2
"""The allocator hands out large blocks in whole pieces of it."""


def on_device(device: str, traced: Mapping[str, Activations]) -> Mapping[str, Activations]:
    """What the networks need on a device of this name, torch's: on a GPU with workspaces, on a CPU as traced."""
    return with_workspaces(traced) if device.partition(":")[0] == "cuda" else traced


def with_workspaces(traced: Mapping[str, Activations]) -> Mapping[str, Activations]:
    """Traced activations, by the names of `runtime.fit.ladder.ACTIVATION_NAMES`, with what libraries take beside them."""
    whole = Activations(fixed=CUBLAS_BYTES + _ROUNDING_BYTES, per_pixel=CONVOLUTION_BYTES_PER_PIXEL)
    tiled = Activations(fixed=CUBLAS_BYTES + _ROUNDING_BYTES + CONVOLUTION_BYTES_PER_PIXEL * _TILE_PIXELS)
    more = {"text": Activations(fixed=CUBLAS_BYTES), "encode": whole, "encode_tiled": tiled, "decode": whole, "decode_tiled": tiled}
    return {name: _sum(one, more[name]) if name in more else one for name, one in traced.items()}


def _sum(one: Activations, other: Activations) -> Activations:
    return replace(one, fixed=one.fixed + other.fixed, per_pixel=one.per_pixel + other.per_pixel)
