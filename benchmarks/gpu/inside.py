"""Reaches into a loaded pipeline, as only a measurement may: its networks, its weights' places, and passes that are left out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from runtime.lane.wan import loaded
from runtime.lane.wan.forwards import replaced_forwards
from runtime.lane.wan.lean import leaner
from runtime.lane.wan.loaded import denoising_passes

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from runtime.lane.wan.placing import PlacedPart, Placer

Encodings = dict[Any, "tuple[npt.NDArray[np.float32], torch.dtype] | None"]
"""What encodings gave, in host memory, and its type; None where a mode has none."""

_LATENT_CHANNELS = 16
"""Of the Wan 2.1 VAE, and so of what a transformer gives back."""


class Inside:
    """What a pipeline of `runtime.lane.wan` is made of."""

    def __init__(self, pipeline: Any) -> None:
        """Looks into a `LoadedWanPipeline`."""
        self._pipeline = pipeline

    @property
    def placer(self) -> Placer:
        """Brings weights to the device."""
        placer: Placer = self._pipeline._placer
        return placer

    @property
    def parts(self) -> dict[str, PlacedPart]:
        """By name."""
        parts: dict[str, PlacedPart] = self.placer._parts
        return parts

    @contextmanager
    def last_passes_only(self, steps: int, *, is_each_computed: bool) -> Iterator[None]:
        """Within it the last pass of a render is computed, or the last one of each transformer, and those before give zeros.

        Weights travel, and schedulers keep their state, as in a whole render. So the passes that are left out would need as much memory as
        the one that runs, or less, and a peak costs one pass instead of all.
        """
        passes = _Passes(self._pipeline._pipe, steps, is_each_computed=is_each_computed)

        @contextmanager
        def counting(transformer: torch.nn.Module, **how: bool) -> Iterator[None]:
            # Outside of what makes a forward pass leaner, and inside of what brings weights.
            with leaner(transformer, **how), replaced_forwards([(transformer, passes.forward_of(transformer))]):
                yield

        with mock.patch.object(loaded, "leaner", counting):
            yield

    @contextmanager
    def encoding_from(self, known: Encodings, key: Any) -> Iterator[None]:
        """Within it pictures are not encoded where `known` has, in host memory, what an earlier encoding for the same key gave."""
        pipe = self._pipeline._pipe

        def encode(*inputs: Any, **named: Any) -> torch.Tensor | None:
            if key in known:
                made = known[key]
                return None if made is None else torch.from_numpy(made[0]).to(pipe._execution_device, made[1])
            given: torch.Tensor | None = type(pipe).encode_keyframes(pipe, *inputs, **named)
            # As an array: a budget on a CPU would count a tensor as the device's.
            known[key] = None if given is None else (given.float().cpu().numpy().copy(), given.dtype)
            return given

        with mock.patch.object(pipe, "encode_keyframes", encode):
            yield


class _Passes:
    """Counts down the passes of each transformer in one render of so many steps."""

    def __init__(self, pipe: Any, steps: int, *, is_each_computed: bool) -> None:
        self._pipe = pipe
        self._steps = steps
        self._is_each_computed = is_each_computed
        self._left: dict[int, int] = {}

    def forward_of(self, module: torch.nn.Module) -> Any:
        forward = module.forward

        def counted(*inputs: Any, **named: Any) -> Any:
            if not self._left:
                # Only now does the pipeline have the scheduler of this render.
                names = denoising_passes(self._pipe, self._steps, 1)
                self._left = {id(getattr(self._pipe, name)): names.count(name) for name in set(names)}
                if not self._is_each_computed:
                    last = id(getattr(self._pipe, names[-1]))
                    self._left = {one: count if one == last else 0 for one, count in self._left.items()}
            self._left[id(module)] -= 1
            if self._left[id(module)] == 0:
                return forward(*inputs, **named)
            given: torch.Tensor = inputs[0] if inputs else named["hidden_states"]
            return (torch.zeros_like(given[:, :_LATENT_CHANNELS]),)

        return counted
