"""A loaded Wan pipeline as the lane runtime sees it: it renders phase by phase, each with no more on the device than the placement says."""

from __future__ import annotations

import traceback
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from runtime.fit.ladder import TEXT_ENCODER, TEXT_TO_VIDEO_TRANSFORMERS, TRANSFORMERS, VAE
from runtime.fit.placement import MemoryPhase
from runtime.lane.wan.compiling import forget_compiled
from runtime.lane.wan.forwards import replaced_forwards
from runtime.lane.wan.latents import decode_frames
from runtime.lane.wan.lean import leaner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np
    import numpy.typing as npt
    from diffusers import DiffusionPipeline

    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.renderer import RenderJob
    from runtime.lane.wan.embeddings import EmbeddingCache
    from runtime.lane.wan.keyframes import Keyframe
    from runtime.lane.wan.placing import Placer

MAX_PROMPT_TOKENS = 512
"""Length of the text that Wan models attend to (`text_len` of the authors' configuration)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """A job as a model wants it.

    Attributes:
        guidance_scale: above 1, each step has a second pass with the negative prompt.
        keyframes: what `encode_keyframes` of the model's pipeline is given.
        arguments: of the pipeline's call, the model's own.
    """

    prompt: str
    negative_prompt: str
    guidance_scale: float
    keyframes: tuple[Keyframe, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passes_per_step(self) -> int:
        """As diffusers has it."""
        return 2 if self.guidance_scale > 1.0 else 1

    @property
    def texts(self) -> tuple[str, ...]:
        """What the text encoder is needed for: the prompt, and the negative one where a pass has it."""
        return (self.prompt, self.negative_prompt)[: self.passes_per_step]


class Recipe(Protocol):
    """What a model does its own way.

    Its pipeline has, beside what diffusers' have, `needs_encoding(keyframes)`, `encode_keyframes(keyframes, num_frames, height, width)`
    and, in its call, `condition`: what the encoding gave, or None.
    """

    def prepare(self, pipe: DiffusionPipeline, job: RenderJob) -> Preparation:
        """Sets a new scheduler and says what the job means to the model; host memory only."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipes:
    """The pipelines of diffusers that make one model.

    Attributes:
        main: renders every mode, or every mode but `t2v`.
        text_to_video: renders `t2v`, with `TEXT_TO_VIDEO_TRANSFORMERS`, where the model's folder has these.
        is_compiled: the blocks of their transformers are.
        keep: called when the pipelines are released: their networks may wait, with their weights, for others; None: they may not.
    """

    main: DiffusionPipeline
    text_to_video: DiffusionPipeline | None = None
    is_compiled: bool = False
    keep: Callable[[], None] | None = None


class LoadedWanPipeline:
    """A diffusers Wan pipeline with its weights. Implements `runtime.lane.renderer.Pipeline`."""

    def __init__(self, pipes: Pipes, recipe: Recipe, placer: Placer, memory: DeviceMemory, embeddings: EmbeddingCache) -> None:
        """Takes over pipelines whose networks the placer places: nobody else may hold a reference to either.

        Args:
            pipes: of the model.
            recipe: of the model.
            placer: has the parts of all pipelines.
            memory: of the device.
            embeddings: known from before, of the same weights.
        """
        for one in (pipes.main, pipes.text_to_video):
            if one is not None:
                one.set_progress_bar_config(disable=True)
        self._pipe: Any = pipes.main
        self._text_to_video: Any = pipes.text_to_video
        self._is_compiled = pipes.is_compiled
        self._keep = pipes.keep
        self._embeddings = embeddings
        self._recipe = recipe
        self._placer = placer
        self._memory = memory

    def render(self, job: RenderJob) -> npt.NDArray[np.uint8]:
        """Renders the job; see the port. Raises RuntimeError after `release` or when the size of the result is not the asked one."""
        # No local name for the pipeline here: a kept exception keeps this frame, and with it the weights after `release`.
        if self._pipe is None:
            msg = "the pipeline was released"
            raise RuntimeError(msg)
        try:
            preparation = self._recipe.prepare(self._pipe_for(job), job)
            known = {text: self._embeddings.get(text) for text in preparation.texts}
            with self._memory.counting(), torch.inference_mode():
                frames = self._render(job, preparation, known)
        except BaseException as error:
            _let_go(error)
            raise
        wanted = (job.request.num_frames, job.request.height, job.request.width, 3)
        if frames.shape != wanted:
            msg = f"the pipeline gave frames of shape {frames.shape}, not {wanted}"
            raise RuntimeError(msg)
        return frames

    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers, each counted once, wherever they lie; 0 after `release`."""
        return 0 if self._pipe is None else self._placer.tensor_bytes

    def release(self) -> None:
        """Drops the pipeline and what it has on the device; calling it again does nothing. Cycles go with the next `gc.collect()`."""
        if self._pipe is not None:
            self._pipe = self._text_to_video = None
            keep, self._keep = self._keep, None
            self._placer.release(keeps_weights=keep is not None)
            if keep is not None:
                keep()
            if self._is_compiled:
                forget_compiled()

    def _pipe_for(self, job: RenderJob) -> Any:
        return self._text_to_video if job.request.mode == "t2v" and self._text_to_video is not None else self._pipe

    def _render(self, job: RenderJob, preparation: Preparation, known: dict[str, torch.Tensor | None]) -> npt.NDArray[np.uint8]:
        pipe, placer = self._pipe_for(job), self._placer
        pipe.vae.use_tiling = job.placement.is_vae_tiled
        try:
            placer.set_weights(job.placement.weights, lambda: job.on_phase(MemoryPhase.LOAD))
            embeds = self._encode_texts(pipe, job, preparation, known)
            condition = None
            if pipe.needs_encoding(preparation.keyframes):
                job.on_phase(MemoryPhase.ENCODE)
                request = job.request
                with placer.working(VAE), _checked(blocks_of_vae(pipe), job.check):
                    condition = pipe.encode_keyframes(preparation.keyframes, request.num_frames, request.height, request.width)
            job.on_phase(MemoryPhase.DENOISE)
            latents = self._denoise(pipe, job, preparation, **embeds, condition=condition)
            del embeds, condition
            job.on_phase(MemoryPhase.DECODE)
            with placer.working(VAE), _checked(blocks_of_vae(pipe), job.check):
                return decode_frames(pipe.vae, latents)
        finally:
            # diffusers clears this at the end of an encoding or decoding only, not when something raises.
            pipe.vae.clear_cache()
            pipe.vae.use_tiling = False
            _forget_steps(pipe)

    def _encode_texts(
        self, pipe: Any, job: RenderJob, preparation: Preparation, known: dict[str, torch.Tensor | None]
    ) -> dict[str, torch.Tensor | None]:
        """The embeddings, on the device, by the names of the call's arguments. Where all are known there is no phase for it.

        Args:
            pipe: to be called with them.
            job: told of the phase.
            preparation: has the texts.
            known: embeddings by text, in host memory; emptied.
        """
        made = {text: embeds.to(pipe._execution_device) for text, embeds in known.items() if embeds is not None}
        missing = [text for text, embeds in known.items() if embeds is None]
        known.clear()
        if missing:
            job.on_phase(MemoryPhase.TEXT)
            with self._placer.passing((TEXT_ENCODER,) * len(missing)), _checked(blocks_of_text_encoder(pipe), job.check):
                # No comprehension: its function would have the pipeline in its closure, and a kept exception keeps that, cleared or not.
                for text in missing:
                    made[text] = _encoded(pipe, text)
            for text in missing:
                self._embeddings.put(text, made[text])
        prompt, *negative = preparation.texts
        return {"prompt_embeds": made[prompt], "negative_prompt_embeds": made[negative[0]] if negative else None}

    def _denoise(self, pipe: Any, job: RenderJob, preparation: Preparation, **tensors: torch.Tensor | None) -> torch.Tensor:
        request = job.request

        evaluations_a_step, evaluations = pipe.scheduler.order, len(evaluated_timesteps(pipe, request.steps))

        def on_step_end(_pipe: Any, evaluation: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            whole_steps, more = divmod(evaluation + 1, evaluations_a_step)
            if more == 0 or evaluation + 1 == evaluations:
                job.on_step(whole_steps + (more > 0), request.steps)
            return values

        passes = denoising_passes(pipe, request.steps, preparation.passes_per_step)
        with ExitStack() as stack:
            for name in dict.fromkeys(passes):
                transformer = getattr(pipe, name)
                stack.enter_context(leaner(transformer, lazy_hints=job.placement.has_lazy_hints, chunked=job.placement.is_chunked))
            parts = dict(zip(TRANSFORMERS, TEXT_TO_VIDEO_TRANSFORMERS if pipe is self._text_to_video else TRANSFORMERS, strict=True))
            stack.enter_context(self._placer.passing([parts[name] for name in passes]))
            stack.enter_context(_checked(blocks_of_transformers(pipe), job.check))
            latents: torch.Tensor = pipe(
                **tensors,
                **preparation.arguments,
                guidance_scale=preparation.guidance_scale,
                height=request.height,
                width=request.width,
                num_frames=request.num_frames,
                num_inference_steps=request.steps,
                # On the CPU, whatever the device: the same seed gives the same noise everywhere.
                generator=torch.Generator("cpu").manual_seed(request.seed),
                output_type="latent",
                return_dict=False,
                callback_on_step_end=on_step_end,
                # None: for each, diffusers calls locals(), and that copy of its frame keeps tensors alive beside a kept exception.
                callback_on_step_end_tensor_inputs=[],
            )[0]
        _forget_steps(pipe)
        return latents


def denoising_passes(pipe: Any, steps: int, passes_per_step: int) -> tuple[str, ...]:
    """The transformer of each forward pass of a call, in order: diffusers' rule, the high-noise expert from the boundary up."""
    high, low = TRANSFORMERS
    ratio = pipe.config.boundary_ratio
    boundary = None if ratio is None else ratio * pipe.scheduler.config.num_train_timesteps
    return tuple(
        high if boundary is None or timestep >= boundary else low
        for timestep in evaluated_timesteps(pipe, steps)
        for _ in range(passes_per_step)
    )


def evaluated_timesteps(pipe: Any, steps: int) -> list[float]:
    """The timesteps at which a call evaluates the network; more than there are steps where the scheduler's are of several evaluations."""
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    timesteps: list[float] = scheduler.timesteps.tolist()
    return timesteps


def blocks_of(pipe: Any) -> Iterator[torch.nn.Module]:
    """The blocks that the networks of a Wan pipeline run one by one; each is a small part of a step."""
    yield from (*blocks_of_text_encoder(pipe), *blocks_of_vae(pipe), *blocks_of_transformers(pipe))


def blocks_of_text_encoder(pipe: Any) -> Iterator[torch.nn.Module]:
    """Of the text encoder."""
    yield from pipe.text_encoder.encoder.block


def blocks_of_vae(pipe: Any) -> Iterator[torch.nn.Module]:
    """Of both halves of the VAE."""
    yield from (*pipe.vae.encoder.down_blocks, pipe.vae.encoder.mid_block, pipe.vae.decoder.mid_block, *pipe.vae.decoder.up_blocks)


def blocks_of_transformers(pipe: Any) -> Iterator[torch.nn.Module]:
    """Of one or two transformers, control blocks included."""
    for name in TRANSFORMERS:
        transformer = getattr(pipe, name, None)
        if transformer is not None:
            yield from (*transformer.blocks, *getattr(transformer, "vace_blocks", ()))


def _encoded(pipe: Any, text: str) -> torch.Tensor:
    """What the text encoder makes of a prompt; diffusers treats a negative one alike."""
    embeds: torch.Tensor = pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=MAX_PROMPT_TOKENS)[0]
    return embeds


def _forget_steps(pipe: Any) -> None:
    """Drops what the steps left in the pipeline: a scheduler keeps samples and the network's last outputs. Every job brings a new one."""
    pipe.scheduler = None
    pipe._current_timestep = None


@contextmanager
def _checked(blocks: Iterator[torch.nn.Module], check: Callable[[], None]) -> Iterator[None]:
    """Within it, the check is called before each of the blocks, and before the care for its weights."""
    with replaced_forwards([(block, partial(_after_check, check, block.forward)) for block in blocks]):
        yield


def _after_check(check: Callable[[], None], forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    check()
    return forward(*inputs, **named)


def _let_go(error: BaseException | None) -> None:
    """Clears the finished frames that an exception holds: whoever keeps the exception would keep weights and latents alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
