"""What the parts of the measurement share: what to run, the device with both models on it, requests."""

from __future__ import annotations

import io
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtime.fit.gpus import GPUS
from runtime.lane.child_protocol import Render, RenderEnded
from runtime.lane.finish import Rendered
from runtime.lane.state import Attempt
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.rules.parameters import to_parameters

if TYPE_CHECKING:
    from benchmarks.gpu.ballast import Ballasted
    from benchmarks.gpu.inside import Inside
    from runtime.lane.attempt import AttemptRunner
    from runtime.lane.finish import Finisher
    from runtime.lane.ladders import Ladders
    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.outcome import Outcome
    from runtime.lane.resident_set import ResidentSet
    from runtime.rules.request import GenerationRequest

_GIB = 1024**3

_TAKES = itertools.count(1)
"""Every request has a text of its own: one that is known needs no text encoder, and all phases are measured."""

PICTURE_KEY = "inputs/" + "0" * 64
"""Of the picture in every request that has one."""


class EnoughError(Exception):
    """Ends a render of which all was seen that was to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is run at a size of the models.

    Attributes:
        grid: width, height, frames; the first that time has no room for is where the grid ends.
        mode_sizes: at these every mode is measured.
        small: of the alternating requests.
        recovered: of the recoveries; here the VAE takes less when it works tile by tile.
        budget_bytes: memory that the device shall seem to have; 0: its own.
    """

    grid: tuple[tuple[int, int, int], ...]
    mode_sizes: tuple[tuple[int, int, int], ...]
    small: tuple[int, int, int]
    recovered: tuple[int, int, int]
    budget_bytes: int
    is_tiny: bool = False


def real_plan() -> Plan:
    """The sizes that users ask for, on the memory of an A10G."""
    # In the order of what people ask for, as time may run out.
    sizes, frames = ((832, 480), (1280, 720), (640, 640)), (81, 49, 161)
    grid = tuple((*size, count) for count in frames for size in sizes)
    return Plan(grid=grid, mode_sizes=grid[:2], small=(256, 256, 17), recovered=(832, 480, 17), budget_bytes=GPUS["A10G"].total_bytes)


def tiny_plan() -> Plan:
    """Sizes for a CPU; every placement fits."""
    grid, small = ((256, 256, 9), (256, 256, 17), (320, 256, 17)), (256, 256, 9)
    return Plan(grid=grid, mode_sizes=grid, small=small, recovered=small, budget_bytes=_GIB, is_tiny=True)


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything that the parts of the measurement share.

    Attributes:
        ends_s: monotonic time at which nothing new is begun.
        left_out: what was not measured, and why if not for time.
        attempts: so many were made.
    """

    plan: Plan
    memory: DeviceMemory
    catalog: Ballasted
    ladders: Ladders
    resident: ResidentSet
    runner: AttemptRunner
    finisher: Finisher
    ends_s: float
    left_out: list[str] = field(default_factory=list)
    attempts: int = 0

    @property
    def inside(self) -> Inside:
        """What the resident pipeline is made of."""
        pipeline: Any = self.resident.pipeline
        inside: Inside = pipeline.inside
        return inside

    def has_time(self, what: str, needed_s: float = 0.0) -> bool:
        """Whether there is time for one more; notes what is left out."""
        if time.monotonic() + needed_s < self.ends_s:
            return True
        self.left_out.append(what)
        return False

    def attempt(self, request: GenerationRequest, placement: str = "") -> Outcome:
        """One whole attempt, as a lane runs it."""
        self.attempts += 1
        order = Render(
            attempt=Attempt(task_id=f"bench{self.attempts}", number=1),
            parameters=dict(to_parameters(request)),
            artifact_prefix=f"tasks/bench{self.attempts}/1/",
            placement=placement,
        )
        end = self.runner.render(order)
        if isinstance(end, Rendered):
            end = self.finisher.finish(end)
        if not isinstance(end, RenderEnded):
            msg = "the memory of a release did not come back"
            raise RuntimeError(msg)  # not an argument's type
        return end.outcome


def picture_file() -> bytes:
    """A plain picture."""
    from PIL import Image

    with io.BytesIO() as file:
        Image.new("RGB", (640, 480), (90, 120, 160)).save(file, "PNG")
        return file.getvalue()


def request_of(model: str, mode: str, size: tuple[int, int, int], *, seed: int = 1) -> GenerationRequest:
    """A checked request; its pictures are looked up under a key that the benchmark has."""
    width, height, frames = size
    raw: dict[str, Any] = {
        "model": model,
        "mode": mode,
        "prompt": f"waves on a beach, take {next(_TAKES)}",
        "width": width,
        "height": height,
        "num_frames": frames,
    }
    picture = {"key": PICTURE_KEY}
    fields: dict[str, dict[str, Any]] = {
        "i2v": {"reference_image": picture},
        "first_last_frame": {"first_frame_image": picture, "last_frame_image": picture},
        "arbitrary_frame": {"arbitrary_frames": [{"image": picture, "frame_index": index} for index in (0, frames // 2, frames - 1)]},
    }
    raw |= fields.get(mode, {})
    return effective(check_request(raw), seed=seed)
