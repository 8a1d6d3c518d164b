"""The port between the lane runtime and a model: what a pipeline must do to be served. No torch here.

A model package offers a `Catalog` under a dotted name such as `lane_anisora.pipeline:catalog`; the pipeline's process imports it by
that name, late, so that agents never import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    from runtime.rules.request import GenerationRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How to load a pipeline.

    Attributes:
        profile: `tiny` (random weights made on this machine) or `a10g` (the prepared checkpoints).
        models_dir: folder that holds the model folders; tiny ones are made there when missing.
        device: torch device, such as `cpu` or `cuda:0`.
    """

    profile: str
    models_dir: Path
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderJob:
    """One attempt, ready to render.

    Attributes:
        request: effective request: size and frame count snapped, seed chosen.
        images: RGB pictures by object key, one for every reference in the request, each stretched to the request's width and height
            (bicubic; the aspect ratio is not kept).
        on_step: called after each denoising step with (step, steps), step from 1. It raises `RenderCancelled` when the attempt shall end; a
            pipeline lets that pass.
        check: as `on_step`, and tells nothing: called before each block of each network, as one step may take minutes. It costs
            microseconds, and returns when the device has done what it was given so far.
    """

    request: GenerationRequest
    images: Mapping[str, Image]
    on_step: Callable[[int, int], None]
    check: Callable[[], None]


class RenderCancelled(BaseException):
    """Raised out of `on_step` and `check`. A BaseException, so that no `except Exception` in a library swallows it."""


class Pipeline(Protocol):
    """A loaded heavy pipeline. One thread uses it; one exists per process at a time."""

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Renders; returns frames as uint8 RGB of shape [num_frames, height, width, 3], of exactly the effective request's size and count.

        The same job gives the same bytes. Raises whatever the model raises; `torch.OutOfMemoryError` is told apart by the caller.
        """
        ...

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers it holds, on any device."""
        ...

    def release(self) -> None:
        """Drops every reference to weights and hooks, also after an exception in `render`. The pipeline is unusable afterwards."""
        ...


class Catalog(Protocol):
    """Loads the pipelines of one process."""

    def models(self) -> tuple[str, ...]:
        """Ids of the models it can load."""
        ...

    def load(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Loads a model; tells what it is doing by `on_stage` (a short sentence). A failed load leaves nothing behind."""
        ...
