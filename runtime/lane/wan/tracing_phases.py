"""What each phase of a render does, on tensors without content: the peak of its live bytes beside the weights."""

from __future__ import annotations

import importlib
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from runtime.fit.ladder import TEXT_ENCODER, TRANSFORMERS, VAE
from runtime.lane.wan.keyframes import Keyframe
from runtime.lane.wan.latents import SPATIAL_STRIDE, decode_frames, latent_frame_count
from runtime.lane.wan.lean import has_hints, leaner
from runtime.lane.wan.loaded import MAX_PROMPT_TOKENS
from runtime.lane.wan.tracing_replay import Replay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.fit.cost import Shape
    from runtime.lane.memory.account import TensorAccount
    from runtime.lane.wan.tracing_networks import Subject

_LATENT_CHANNELS = 16
_CONDITION_CHANNELS = 20
_CONTROL_CHANNELS = 32
_MASK_CHANNELS = 64
_META = torch.device("meta")

_UNSEEN_BYTES = 4096
"""Added to each peak: numbers from Python lists, such as a VAE's 16 means, do not show on the meta device."""

_STEPS = 4
"""Enough for a scheduler of order 2 to have all of its state."""

_VARIANTS = {"denoise": (False, False), "denoise_lazy": (True, False), "denoise_chunked": (True, True)}
"""Whether hints are lazy, and whether work is chunked."""


def peak_bytes(subject: Subject, name: str, shape: Shape, *, is_whole: bool = False) -> int:
    """The most bytes alive at once beside the weights, in a phase of a request of this size.

    Args:
        subject: the model.
        name: one of `runtime.fit.ladder.ACTIVATION_NAMES`.
        shape: size of the request; its mode does not matter.
        is_whole: with all main blocks, and every chunk and tile of the VAE; otherwise with as few as show the peak.
    """
    return _UNSEEN_BYTES + _PHASES[name.partition("_")[0]](subject, name, shape, is_whole)


def _text(subject: Subject, _name: str, _shape: Shape, _is_whole: bool) -> int:
    """Prompt and negative prompt, one after the other, as diffusers' `encode_prompt` does it."""
    with subject.tracing(TEXT_ENCODER) as (encoder, account):
        embeds = []
        for _ in range(2):
            ids, mask = (torch.zeros(1, MAX_PROMPT_TOKENS, dtype=torch.int64, device=_META) for _ in range(2))
            encoded = encoder(ids, mask).last_hidden_state.to(subject.compute)
            cut = [torch.cat([one, one.new_zeros(0, one.shape[1])]) for one in encoded]
            embeds.append(torch.stack(cut, dim=0).repeat(1, 1, 1))
            del encoded, cut
        return account.peak_bytes


def _encode(subject: Subject, name: str, shape: Shape, is_whole: bool) -> int:
    # By name, as a catalog is: the lanes stand above this package.
    conditioning: Any = importlib.import_module(f"lane_{subject.model}.conditioning")
    width = _text_width(subject)
    with subject.tracing(VAE) as (vae, account), _replay(vae, account, is_replayed=not is_whole) as replay:
        vae.use_tiling = name.endswith("_tiled")
        with account.ignoring():
            keyframes = _first_and_last(shape)
        embeds = _embeds(subject, width)
        if hasattr(conditioning, "encode_condition"):
            made = conditioning.encode_condition(vae, keyframes, shape.num_frames, height=shape.height, width=shape.width, device=_META)
        else:
            pipe = SimpleNamespace(vae=vae, _execution_device=_META)
            made = conditioning.KeyframeVacePipeline.encode_keyframes(pipe, keyframes, shape.num_frames, shape.height, shape.width)
        del made, embeds
        return replay.peak_bytes


def _decode(subject: Subject, name: str, shape: Shape, is_whole: bool) -> int:
    with subject.tracing(VAE) as (vae, account), _replay(vae, account, is_replayed=not is_whole) as replay:
        vae.use_tiling = name.endswith("_tiled")
        decode_frames(vae, _latents(shape, _LATENT_CHANNELS, torch.float32))
        return replay.peak_bytes


def _denoise(subject: Subject, name: str, shape: Shape, is_whole: bool) -> int:
    """Steps of diffusers' loops, with guidance where the model has it: the scheduler's state fills up, then comes a forward pass."""
    is_lazy, is_chunked = _VARIANTS[name]
    scheduler = _scheduler(subject)
    scheduler.set_timesteps(_STEPS)
    # Within the last step that has several evaluations, if any has: there its state is whole.
    evaluated = len(scheduler.timesteps) - scheduler.order
    with (
        subject.tracing(TRANSFORMERS[0], is_whole=is_whole) as (transformer, account),
        leaner(transformer, lazy_hints=is_lazy, chunked=is_chunked),
    ):
        embeds = _embeds(subject, transformer.config.text_dim)
        held, condition = _held(subject, shape, is_control=has_hints(transformer))
        latents = _latents(shape, _LATENT_CHANNELS, torch.float32)
        for index, timestep in enumerate(scheduler.timesteps):
            inputs = latents if condition is None else torch.cat([latents, condition], dim=1)
            inputs = inputs.to(subject.compute)
            predicted = (
                _forward(transformer, inputs, embeds[0], held) if index == evaluated else _latents(shape, _LATENT_CHANNELS, subject.compute)
            )
            if not has_hints(transformer):
                unguided = _latents(shape, _LATENT_CHANNELS, subject.compute)
                predicted = unguided + 2.0 * (predicted - unguided)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        return account.peak_bytes


def _forward(transformer: Any, inputs: torch.Tensor, embeds: torch.Tensor, held: list[torch.Tensor]) -> torch.Tensor:
    control: dict[str, torch.Tensor] = {}
    if has_hints(transformer):
        scales = torch.ones(len(transformer.config.vace_layers), dtype=inputs.dtype, device=_META)
        control = {"control_hidden_states": held[0], "control_hidden_states_scale": scales}
    timestep = torch.zeros(1, dtype=torch.int64, device=_META)
    output: torch.Tensor = transformer(hidden_states=inputs, timestep=timestep, encoder_hidden_states=embeds, **control, return_dict=False)[
        0
    ]
    return output


def _scheduler(subject: Subject) -> Any:
    """A new one of the model's kind."""
    return importlib.import_module(f"lane_{subject.model}.pipeline").scheduler_with_most_state()


def _held(subject: Subject, shape: Shape, *, is_control: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """What diffusers' loops keep alive beside latents and predictions; and the condition that goes in with the latents, if one does."""
    if is_control:
        # The control latents and the mask put together, beside both, the mask in full precision.
        kinds = (
            (_CONTROL_CHANNELS + _MASK_CHANNELS, subject.compute),
            (_CONTROL_CHANNELS, subject.compute),
            (_MASK_CHANNELS, torch.float32),
        )
        return [_latents(shape, channels, dtype) for channels, dtype in kinds], None
    # The picture that the pipeline demands and never uses.
    return [torch.empty(1, 3, shape.height, shape.width, device=_META)], _latents(shape, _CONDITION_CHANNELS, torch.float32)


def _latents(shape: Shape, channels: int, dtype: torch.dtype) -> torch.Tensor:
    size = (latent_frame_count(shape.num_frames), shape.height // SPATIAL_STRIDE, shape.width // SPATIAL_STRIDE)
    return torch.empty(1, channels, *size, dtype=dtype, device=_META)


def _embeds(subject: Subject, width: int) -> list[torch.Tensor]:
    """Of prompt and negative prompt."""
    return [torch.empty(1, MAX_PROMPT_TOKENS, width, dtype=subject.compute, device=_META) for _ in range(2)]


@contextmanager
def _replay(vae: Any, account: TensorAccount, *, is_replayed: bool) -> Iterator[Replay]:
    replay = Replay(vae, account)
    with replay.installed() if is_replayed else nullcontext():
        yield replay


def _text_width(subject: Subject) -> int:
    return int(subject.part(TEXT_ENCODER).config.d_model)


def _first_and_last(shape: Shape) -> tuple[Keyframe, ...]:
    return tuple(
        Keyframe(frame_index=index, pixels=torch.empty(3, shape.height, shape.width, device=_META), strength=1.0)
        for index in sorted({0, shape.num_frames - 1})
    )


_PHASES = {"text": _text, "encode": _encode, "decode": _decode, "denoise": _denoise}
"""By the first word of the name."""
