"""What makes a Wan transformer's forward pass leaner: casts at use, VACE hints when their layer needs them, work over slices of the tokens.

The first is for good, the others are installed for the time of a context. All of it runs on fake and meta tensors too, so that it can be
traced without weights. The arithmetic is that of diffusers 0.42.1; tests compare.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from runtime.lane.wan.casting import cast_at_use
from runtime.lane.wan.chunks import CHUNK_TOKENS, run_block, run_control_block, slices
from runtime.lane.wan.forwards import replaced_forwards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["cast_at_use", "has_hints", "leaner"]


def has_hints(transformer: torch.nn.Module) -> bool:
    """Whether it is a VACE transformer, one with control blocks."""
    return hasattr(transformer, "vace_blocks")


@contextmanager
def leaner(transformer: torch.nn.Module, *, lazy_hints: bool, chunked: bool) -> Iterator[None]:
    """Within it the transformer computes leaner; what it gives differs by rounding at most, and only when chunked.

    Args:
        transformer: a `WanTransformer3DModel` or a `WanVACETransformer3DModel`.
        lazy_hints: control hints are computed one by one; nothing to do where there are none.
        chunked: work that is done token by token runs over slices of them, in place. Includes `lazy_hints`.

    Raises:
        ValueError: the transformer has image attention, which no served model has.
    """
    model: Any = transformer
    blocks, control_blocks = list(model.blocks), list(getattr(model, "vace_blocks", ()))
    if model.config.image_dim is not None or any(block.attn2.add_k_proj is not None for block in blocks):
        msg = "a transformer with image attention cannot be made leaner"
        raise ValueError(msg)
    replacements: list[tuple[torch.nn.Module, Any]] = []
    if chunked or (lazy_hints and control_blocks):
        replacements.append((transformer, partial(_forward, transformer, CHUNK_TOKENS if chunked else None)))
    if chunked:
        replacements += [(block, partial(run_block, block)) for block in blocks]
        replacements += [(block, partial(run_control_block, block)) for block in control_blocks]
    del model, blocks, control_blocks
    with replaced_forwards(replacements):
        yield


def _forward(  # noqa: PLR0913  # the signature of diffusers' forward passes
    model: Any,
    chunk_tokens: int | None,
    hidden_states: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_hidden_states_image: None = None,
    control_hidden_states: torch.Tensor | None = None,
    control_hidden_states_scale: torch.Tensor | None = None,
    return_dict: bool = True,
    attention_kwargs: None = None,
) -> Any:
    """A transformer's forward pass with each hint computed where it is added. Image states and attention arguments are not supported."""
    shape = hidden_states.shape
    rotary = model.rope(hidden_states)
    tokens = model.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
    control = None
    if control_hidden_states is not None:
        control = _control_tokens(model.vace_patch_embedding(control_hidden_states), tokens.shape[1])
    if control is None or chunk_tokens is not None:
        tokens = tokens.contiguous()
    time, modulation, text, _ = model.condition_embedder(timestep, encoder_hidden_states, None)
    inputs = (modulation.unflatten(1, (6, -1)), rotary)
    scales = _scales(model, control_hidden_states_scale)
    del hidden_states, control_hidden_states
    if control is None:
        for block in model.blocks:
            tokens = block(tokens, text, *inputs)
    else:
        tokens = _run_with_hints(model, tokens, control, text, inputs, scales)
    del control
    tokens = _project_out(model, tokens, time, chunk_tokens)
    output = _unpatchify(tokens, shape, model.config.patch_size)
    return Transformer2DModelOutput(sample=output) if return_dict else (output,)


def _run_with_hints(  # what every block is given
    model: Any,
    tokens: torch.Tensor,
    control: torch.Tensor,
    text: torch.Tensor,
    inputs: tuple[torch.Tensor, Any],
    scales: Sequence[torch.Tensor] | None,
) -> torch.Tensor:
    """Runs the blocks; `runtime.lane.wan.parts.blocks_of_part` tells the same order.

    The first control block starts from the tokens as they came, so it runs before the first block, and its hint waits. The others start
    from the control block before them, so they run after the block that they add to, and nothing waits.
    """
    layers = 0
    hint: Any = None
    for index, block in enumerate(model.blocks):
        is_hinted = index in model.config.vace_layers
        if is_hinted and layers == 0:
            hint, control = model.vace_blocks[0](tokens, text, control, *inputs)
        tokens = block(tokens, text, *inputs)
        if is_hinted:
            if layers > 0:
                hint, control = model.vace_blocks[layers](tokens, text, control, *inputs)
            tokens = tokens + (hint if scales is None else hint * scales[layers])
            hint, layers = None, layers + 1
    return tokens


def _control_tokens(embedded: torch.Tensor, count: int) -> torch.Tensor:
    """The control tokens, padded with zeros to as many as the others."""
    control = embedded.flatten(2).transpose(1, 2)
    missing = count - control.shape[1]
    return torch.nn.functional.pad(control, (0, 0, 0, missing)) if missing else control.contiguous()


def _scales(model: Any, scale: torch.Tensor | None) -> tuple[torch.Tensor, ...] | None:
    if scale is None:
        return None
    scales = torch.unbind(scale)
    if len(scales) != len(model.config.vace_layers):
        msg = f"{len(scales)} control scales were given for {len(model.config.vace_layers)} control layers"
        raise ValueError(msg)
    return scales


def _project_out(model: Any, tokens: torch.Tensor, time: torch.Tensor, chunk_tokens: int | None) -> torch.Tensor:
    shift, scale = (model.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)

    def project(part: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = model.proj_out((model.norm_out(part.float()) * (1 + scale) + shift).type_as(part))
        return out

    if chunk_tokens is None:
        return project(tokens)
    return torch.cat([project(tokens[:, part]) for part in slices(tokens.shape[1], chunk_tokens)], dim=1)


def _unpatchify(tokens: torch.Tensor, shape: torch.Size, patch_size: Sequence[int]) -> torch.Tensor:
    """Tokens back to latents of the input's frames, height and width."""
    batch, _, frames, height, width = shape
    depth, rows, columns = patch_size
    grid = tokens.reshape(batch, frames // depth, height // rows, width // columns, depth, rows, columns, -1)
    return grid.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
