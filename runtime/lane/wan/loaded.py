"""A loaded Wan pipeline as the lane runtime sees it: render, count, release."""

from __future__ import annotations

import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from runtime.lane.wan.latents import decode_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt
    from diffusers import DiffusionPipeline

    from runtime.lane.renderer import RenderJob

MAX_PROMPT_TOKENS = 512
"""Length of the text that Wan models attend to (`text_len` of the authors' configuration)."""


class Recipe(Protocol):
    """What a model does its own way."""

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Mapping[str, Any]:
        """Readies the pipeline for the job (a new scheduler) and returns the arguments of its call that are the model's own."""
        ...


class LoadedWanPipeline:
    """A diffusers Wan pipeline with its weights. Implements `runtime.lane.renderer.Pipeline`."""

    def __init__(self, pipe: DiffusionPipeline, recipe: Recipe) -> None:
        """Takes over a placed pipeline: nobody else may hold a reference to it."""
        pipe.set_progress_bar_config(disable=True)
        self._pipe: Any = pipe
        self._recipe = recipe

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Renders the job; see the port. Raises RuntimeError after `release` or when the size of the result is not the asked one."""
        # No local name for the pipeline here: a kept exception keeps this frame, and with it the weights after `release`.
        if self._pipe is None:
            msg = "the pipeline was released"
            raise RuntimeError(msg)
        try:
            frames = self._render(job)
        except BaseException as error:
            _let_go(error)
            raise
        wanted = (job.request.num_frames, job.request.height, job.request.width, 3)
        if frames.shape != wanted:
            msg = f"the pipeline gave frames of shape {frames.shape}, not {wanted}"
            raise RuntimeError(msg)
        return frames

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers, each counted once; 0 after `release`."""
        if self._pipe is None:
            return 0
        modules = [part for part in self._pipe.components.values() if isinstance(part, torch.nn.Module)]
        tensors = {id(tensor): tensor for module in modules for tensor in (*module.parameters(), *module.buffers())}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def release(self) -> None:
        """Removes all hooks and drops the pipeline; calling it again does nothing. Cycles go with the caller's next `gc.collect()`."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.remove_all_hooks()

    def _render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        pipe = self._pipe
        blocks = tuple(blocks_of(pipe))
        try:
            for block in blocks:
                # Not torch's hooks: a frame in which torch calls one holds the block by a closure, beside a kept exception.
                block.forward = partial(_checked, job.check, block.forward)
            with torch.inference_mode():
                return decode_frames(pipe.vae, self._denoise(pipe, job))
        finally:
            for block in blocks:
                vars(block).pop("forward", None)  # the class's own again
            # diffusers does these at the end of a call only: not when something raises, and not after a decode of ours.
            pipe.vae.clear_cache()
            pipe.maybe_free_model_hooks()

    def _denoise(self, pipe: Any, job: RenderJob) -> torch.Tensor:
        request = job.request

        def on_step_end(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            job.on_step(step + 1, request.steps)
            return values

        latents: torch.Tensor = pipe(
            **self._recipe.prepare(pipe, job),
            height=request.height,
            width=request.width,
            num_frames=request.num_frames,
            num_inference_steps=request.steps,
            # On the CPU, whatever the device: the same seed gives the same noise everywhere.
            generator=torch.Generator("cpu").manual_seed(request.seed),
            max_sequence_length=MAX_PROMPT_TOKENS,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=on_step_end,
            # None: for each, diffusers calls locals(), and that copy of its frame keeps the weights alive beside a kept exception.
            callback_on_step_end_tensor_inputs=[],
        )[0]
        return latents


def blocks_of(pipe: Any) -> Iterator[torch.nn.Module]:
    """The blocks that the networks of a Wan pipeline (text encoder, VAE, transformers) run one by one; each is a small part of a step."""
    yield from pipe.text_encoder.encoder.block
    yield from (*pipe.vae.encoder.down_blocks, pipe.vae.encoder.mid_block, pipe.vae.decoder.mid_block, *pipe.vae.decoder.up_blocks)
    for transformer in (pipe.transformer, getattr(pipe, "transformer_2", None)):
        if transformer is not None:
            yield from (*transformer.blocks, *getattr(transformer, "vace_blocks", ()))


def _checked(check: Callable[[], None], forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """A block's forward pass after a check."""
    check()
    return forward(*inputs, **named)


def _let_go(error: BaseException | None) -> None:
    """Clears the finished frames that an exception holds: whoever keeps the exception would keep weights and latents alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
