"""The networks of a model between two pipelines: nothing of them is on the device, they point at the weights in host memory.

Making them takes longer than bringing their weights over a fast bus, and a pool would make them at every switch. So a released pipeline
leaves them with the weights, which live as long, and the next pipeline of the same weights takes them. One pipeline has them at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedTokenizerFast

    from runtime.lane.wan.placing import PlacedPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """What a pipeline is put together of.

    Attributes:
        purpose: device and types that they compute in.
        parts: by name, in the order of the pipeline's components.
    """

    purpose: tuple[object, ...]
    parts: Mapping[str, PlacedPart]
    tokenizer: PreTrainedTokenizerFast

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """By name."""
        return {name: part.module for name, part in self.parts.items()}


class NetworkShelf:
    """Keeps the networks of one model while no pipeline has them. One thread uses it."""

    def __init__(self) -> None:
        """Starts empty."""
        self._kept: Networks | None = None

    def take(self, purpose: tuple[object, ...]) -> Networks | None:
        """Hands out what is kept, if it is for this purpose; what is for another one is dropped."""
        kept, self._kept = self._kept, None
        return kept if kept is not None and kept.purpose == purpose else None

    def put(self, networks: Networks) -> None:
        """Keeps networks that nobody uses any more."""
        self._kept = networks

    def clear(self) -> None:
        """Drops what is kept, and takes its weights from it."""
        kept: Any = self._kept
        self._kept = None
        if kept is not None:
            for part in kept.parts.values():
                part.forget()
