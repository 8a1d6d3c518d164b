"""What a request costs in GPU memory, phase by phase, as a linear function of its size."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from runtime.fit.placement import MemoryPhase


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of an effective request.

    Attributes:
        width, height: pixels, multiples of 16.
        num_frames: 4k + 1.
        mode: of the request, such as `t2v`.
    """

    width: int
    height: int
    num_frames: int
    mode: str = "t2v"

    @cached_property
    def pixels(self) -> int:
        """Of one frame."""
        return self.width * self.height

    @cached_property
    def tokens(self) -> int:
        """That the transformer attends to: (F-1)/4+1 latent frames of (H/16)(W/16) patches."""
        return ((self.num_frames - 1) // 4 + 1) * (self.height // 16) * (self.width // 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """Bytes of live tensors beside the weights at the peak: fixed + per_token * tokens + per_pixel * (W*H) + per_frame_pixel * (F*W*H)."""

    fixed: float = 0.0
    per_token: float = 0.0
    per_pixel: float = 0.0
    per_frame_pixel: float = 0.0

    def bytes_at(self, shape: Shape) -> int:
        """For a request of this size, rounded up."""
        per_frame = self.per_pixel + self.per_frame_pixel * shape.num_frames
        return -int(-(self.fixed + self.per_token * shape.tokens + per_frame * shape.pixels) // 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """One phase of one rung.

    Attributes:
        weights_bytes: of the weights on the GPU during the phase.
        modes: in which the phase happens; empty: in all.
    """

    phase: MemoryPhase
    weights_bytes: int
    activations: Activations
    modes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One placement of one model on one machine.

    Attributes:
        placement: name of the placement.
        host_bytes: weights kept in host memory beside the GPU.
        pinned_bytes: how much of it the placement wants pinned, rounding included.
    """

    placement: str
    phases: tuple[PhaseCost, ...]
    host_bytes: int = 0
    pinned_bytes: int = 0


class TextToVideoWeights(StrEnum):
    """What renders `t2v` of a model whose own weights are for image-to-video."""

    IMAGE_TO_VIDEO_EXPERTS = "image_to_video_experts"
    """The same as renders the other modes, with an empty condition."""
    TEXT_TO_VIDEO_PAIR = "text_to_video_pair"
    """A pair of transformers beside them, for this mode alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLadder:
    """The rungs of a model, fastest first.

    Attributes:
        text_to_video_weights: a value of `TextToVideoWeights`; empty for a model whose weights are for every mode, and where it is not
        told.
    """

    model: str
    rungs: tuple[Rung, ...]
    text_to_video_weights: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimits:
    """What a worker's device and host have, in bytes, as measured there.

    Attributes:
        gpu: its name for people: `NVIDIA A10G`, `cpu`.
        total_bytes: that torch sees.
        other_bytes: used beside torch's allocator (context, libraries, other processes), measured when nothing is loaded.
        margin_bytes: kept free for workspaces and fragmentation.
        host_bytes: memory of the machine, or of its container.
        pinned_limit_bytes: host memory that may be pinned.
    """

    gpu: str
    total_bytes: int
    other_bytes: int
    margin_bytes: int
    host_bytes: int
    pinned_limit_bytes: int

    @property
    def budget_bytes(self) -> int:
        """What weights and activations may take together."""
        return max(0, self.total_bytes - self.other_bytes - self.margin_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMemory:
    """All that Fit needs to know of a worker; lanes report it, admission keeps it."""

    limits: DeviceLimits
    ladders: tuple[ModelLadder, ...]
