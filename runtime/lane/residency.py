"""The policy of the one slot and of the weights in host memory beside it: pure functions of numbers and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_GIB = 1024**3


class Move(StrEnum):
    """One move of a switch."""

    RELEASE = "release"
    """The pipeline in the slot goes; that its memory came back is verified."""
    READ = "read"
    """The weights come from disk to host memory, for which others may have to leave it."""
    ASSEMBLE = "assemble"
    """A pipeline is made of the weights in host memory."""


def plan_moves(*, resident: str, wanted: str, is_at_hand: bool) -> tuple[Move, ...]:
    """What to do so that `wanted` is resident; never loads beside another. An empty name means none.

    Args:
        resident: the model in the slot.
        wanted: the model that shall be there.
        is_at_hand: the wanted model's weights are in host memory.
    """
    if resident == wanted:
        return ()
    release = (Move.RELEASE,) if resident else ()
    if not wanted:
        return release
    return (*release, Move.ASSEMBLE) if is_at_hand else (*release, Move.READ, Move.ASSEMBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was measured after a release, to be judged.

    Attributes:
        is_alive: something still refers to the pipeline, or its release failed.
        residue_bytes: live tensor bytes above the least that was alive before a load: what the allocator says.
        residue_allowance_bytes: that libraries may keep.
        shortfall_bytes: by how much less of the device is free than before the first load: what the driver says; 0 where it cannot tell.
        shortfall_allowance_bytes: what libraries load late (kernels, workspaces) comes out of the margin, so this is the margin.
    """

    is_alive: bool
    residue_bytes: int
    residue_allowance_bytes: int
    shortfall_bytes: int = 0
    shortfall_allowance_bytes: int = 0

    @property
    def is_back(self) -> bool:
        """The memory came back: nothing holds the pipeline, and allocator and driver agree that no more than the allowances is left."""
        return (
            not self.is_alive
            and self.residue_bytes <= self.residue_allowance_bytes
            and self.shortfall_bytes <= self.shortfall_allowance_bytes
        )

    @property
    def recorded_bytes(self) -> int:
        """The residue as records tell it. What is within the allowances belongs to the libraries, not to the released pipeline."""
        if self.is_back:
            return 0
        is_short = self.shortfall_bytes > self.shortfall_allowance_bytes
        return max(self.residue_bytes, self.shortfall_bytes) if is_short else self.residue_bytes

    @property
    def reason(self) -> str:
        """For operators: why it is not back; empty when it is."""
        if self.is_alive:
            return "something still holds the released pipeline"
        if self.residue_bytes > self.residue_allowance_bytes:
            return f"{self.residue_bytes} bytes of tensors are left ({self.residue_allowance_bytes} may be)"
        if self.shortfall_bytes > self.shortfall_allowance_bytes:
            return f"the driver has {self.shortfall_bytes} bytes less than before ({self.shortfall_allowance_bytes} may be missing)"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldWeights:
    """The weights of one model in host memory, or what they would take there.

    Attributes:
        pinned_bytes: how much of `host_bytes` is pinned, rounding included.
    """

    model: str
    host_bytes: int
    pinned_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRoom:
    """What weights of all models together may take, in bytes."""

    host_bytes: int
    pinned_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """How to make room for weights that are about to be read.

    Attributes:
        drops: models whose weights leave host memory first.
        is_mapped: the host is too poor for even this one model: its weights stay mapped from disk.
        reason: a sentence for operators.
    """

    drops: tuple[str, ...]
    is_mapped: bool
    reason: str


def host_reserve_bytes(total_bytes: int) -> int:
    """What a host keeps beside weights: 6 GiB, or a quarter of a small one.

    6 GiB: the libraries with a CUDA context take some 3 GiB of host memory, and a decoded clip of 720x1280x81 is 0.9 GB in float32
    and exists up to three times while it becomes pictures.
    """
    return min(6 * _GIB, total_bytes // 4)


def weight_room(*, total_bytes: int, available_bytes: int, held_bytes: int, pinned_limit_bytes: int) -> WeightRoom:
    """What weights may take on this host.

    Args:
        total_bytes: of the machine or its container.
        available_bytes: of it, not in use by anyone now; other lanes of the machine count as use.
        held_bytes: weights of this process in host memory now; they could leave.
        pinned_limit_bytes: host memory that may be pinned.
    """
    ours = min(total_bytes, available_bytes + held_bytes) - host_reserve_bytes(total_bytes)
    return WeightRoom(host_bytes=max(0, ours), pinned_bytes=max(0, pinned_limit_bytes))


def is_host_poor(wanted: HeldWeights, room: WeightRoom) -> bool:
    """Whether the host is too small for the weights of even this model alone."""
    return wanted.host_bytes > room.host_bytes


def plan_host(wanted: HeldWeights, shelf: Sequence[HeldWeights], room: WeightRoom) -> HostPlan:
    """Which weights stay in host memory beside those that are about to be read; the ones used longest ago go first.

    Weights that are kept may not push the wanted ones out of pinned memory: copies from there are what every streamed block costs.

    Args:
        wanted: what the model would take.
        shelf: what is held, the model used longest ago first.
        room: for all of them.
    """
    if is_host_poor(wanted, room):
        reason = f"{wanted.model} takes {wanted.host_bytes} bytes and host memory has room for {room.host_bytes}: mapped from disk"
        # What is mapped lives from the page cache, which the others would take from it.
        return HostPlan(drops=tuple(held.model for held in shelf), is_mapped=True, reason=reason)
    kept = list(shelf)
    drops: list[str] = []
    while kept and not _has_room(wanted, kept, room):
        drops.append(kept.pop(0).model)
    reason = f"no room in host memory for {wanted.model} beside {', '.join(drops)}" if drops else "host memory has room"
    return HostPlan(drops=tuple(drops), is_mapped=False, reason=reason)


def _has_room(wanted: HeldWeights, kept: Sequence[HeldWeights], room: WeightRoom) -> bool:
    host_bytes = wanted.host_bytes + sum(held.host_bytes for held in kept)
    pinned_bytes = min(wanted.pinned_bytes, room.pinned_bytes) + sum(held.pinned_bytes for held in kept)
    return host_bytes <= room.host_bytes and pinned_bytes <= room.pinned_bytes
