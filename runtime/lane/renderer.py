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

    from runtime.fit.cost import ModelLadder
    from runtime.fit.placement import MemoryPhase, Placement
    from runtime.lane.memory.port import DeviceMemory
    from runtime.rules.request import GenerationRequest


class ModelFilesMissingError(Exception):
    """The files of a model are not on this machine; the text says which, for operators."""


class ModelFilesUnusableError(Exception):
    """The files of a model are damaged, or are those of something else; the text says which, for operators."""


def _ignore_read(_read_bytes: int, _total_bytes: int) -> None:
    """Nobody follows a load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How to load a pipeline.

    Attributes:
        profile: `tiny` (random weights made on this machine) or `a10g` (the prepared checkpoints).
        models_dir: folder that holds the model folders; tiny ones are made there when missing.
        memory: of the device to work on; weights get there by it only.
        is_host_poor: weights stay mapped from disk instead of being copied to host memory.
        on_read: called again and again while weights are read, with bytes read and bytes to read. It returns at once.
        is_compiled: transformer blocks are compiled, where the device lets them be.
        attention_backend: kernel of the transformers' attention, by diffusers' name; `auto`: what the GPU and the packages offer.
    """

    profile: str
    models_dir: Path
    memory: DeviceMemory
    is_host_poor: bool = False
    on_read: Callable[[int, int], None] = _ignore_read
    attention_backend: str = "auto"
    is_compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderJob:
    """One attempt, ready to render.

    Attributes:
        request: effective request: size and frame count snapped, seed chosen.
        images: RGB pictures by object key, one for every reference in the request, each stretched to the request's width and height
            (bicubic; the aspect ratio is not kept).
        placement: how the weights shall lie during this render; it may differ from the last one's without a load. What differs in the
            result is rounding at most.
        on_phase: called when a phase begins, before it allocates anything.
        on_step: called after each denoising step with (step, steps), step from 1. It raises `RenderCancelled` when the attempt shall end; a
            pipeline lets that pass.
        check: as `on_step`, and tells nothing: called before each block of each network, as one step may take minutes. It costs
            microseconds, and returns when the device has done what it was given so far.
    """

    request: GenerationRequest
    images: Mapping[str, Image]
    placement: Placement
    on_phase: Callable[[MemoryPhase], None]
    on_step: Callable[[int, int], None]
    check: Callable[[], None]


class RenderCancelled(BaseException):
    """Raised out of `on_step` and `check`. A BaseException, so that no `except Exception` in a library swallows it."""


class HostWeights(Protocol):
    """All weights of a model in host memory (or mapped from disk), ready to be placed. They outlive pipelines, so that a model that comes
    back costs a copy over the bus and not a read from disk."""

    @property
    def host_bytes(self) -> int:
        """Held in host memory; 0 for what is mapped from disk."""
        ...

    @property
    def pinned_bytes(self) -> int:
        """Of these, pinned, rounding included."""
        ...

    def forget_networks(self) -> None:
        """Drops what the last pipeline left for the next one beside the weights; that one then takes longer to assemble."""
        ...


class Pipeline(Protocol):
    """A loaded heavy pipeline. One thread uses it; one exists per process at a time."""

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Renders; returns frames as uint8 RGB of shape [num_frames, height, width, 3], of exactly the effective request's size and count.

        The same job gives the same bytes. Raises whatever the model raises; `torch.OutOfMemoryError` is told apart by the caller. However
        it ends, the device holds no more of it afterwards than before, but for the weights of a placement that keeps them there.
        """
        ...

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers, each counted once, wherever they lie; 0 after `release`."""
        ...

    def release(self) -> None:
        """Drops every reference to weights and hooks, also after an exception in `render`. The pipeline is unusable afterwards."""
        ...


class Catalog(Protocol):
    """Loads the pipelines of one process. A load that fails leaves nothing behind."""

    def models(self) -> tuple[str, ...]:
        """Ids of the models it can load."""
        ...

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """What each placement of the model costs, from the headers of its files and the traced activations; loads no weights."""
        ...

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Brings the weights from disk to host memory (or maps them); tells what it is doing by `on_stage` (a short sentence)."""
        ...

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Makes a pipeline of weights that `read` gave, in this process; may be called again after the pipeline's release."""
        ...
