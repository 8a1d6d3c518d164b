"""A Wan transformer block's forward pass over slices of the tokens, in place: for clips so long that element-wise work sets the peak.

Attention needs the queries, keys and values of all tokens; everything else is done token by token, so it needs temporaries of one slice
only. Per token the peak is that of the states, three projections and the attention's output, 10 bytes of bf16 per channel, and not some 22.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Rotary = tuple[torch.Tensor, torch.Tensor]

CHUNK_TOKENS = 4096
"""A slice. Its temporaries are some 0.4 GiB at the real width; 8-bit weights are cast again for each, which costs about 4 % of its time."""


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def run_block(
    block: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, temb: torch.Tensor, rotary_emb: Rotary
) -> torch.Tensor:
    """The forward pass of a `WanTransformerBlock`. Writes to `hidden_states`, and returns it."""
    shift, scale, gate, feed_shift, feed_scale, feed_gate = (block.scale_shift_table + temb.float()).chunk(6, dim=1)
    _attend_to_itself(block, hidden_states, (shift, scale, gate), rotary_emb)
    _attend_to_text(block, hidden_states, encoder_hidden_states)

    def feed(states: torch.Tensor) -> torch.Tensor:
        fed = block.ffn(_modulated(block.norm3, states, feed_scale, feed_shift))
        out: torch.Tensor = (states.float() + fed.float() * feed_gate).type_as(states)
        return out

    _in_place(hidden_states, feed)
    return hidden_states


def run_control_block(  # the signature of diffusers' block
    block: Any,
    hidden_states: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    control_hidden_states: torch.Tensor,
    temb: torch.Tensor,
    rotary_emb: Rotary,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The forward pass of a `WanVACETransformerBlock`: the hint and the control states. Writes to `control_hidden_states`."""
    control = control_hidden_states
    if block.proj_in is not None:
        for part in slices(control.shape[1], CHUNK_TOKENS):
            control[:, part] = block.proj_in(control[:, part]) + hidden_states[:, part]
    run_block(block, control, encoder_hidden_states, temb, rotary_emb)
    return None if block.proj_out is None else block.proj_out(control), control


def _attend_to_itself(block: Any, states: torch.Tensor, modulation: tuple[torch.Tensor, ...], rotary: Rotary) -> None:
    attention = block.attn1
    shift, scale, gate = modulation
    query, key, value = (states.new_empty(*states.shape[:2], attention.inner_dim) for _ in range(3))
    for part in slices(states.shape[1], CHUNK_TOKENS):
        normed = _modulated(block.norm1, states[:, part], scale, shift)
        query[:, part] = _rotated(attention.norm_q(attention.to_q(normed)), rotary, part, attention.heads)
        key[:, part] = _rotated(attention.norm_k(attention.to_k(normed)), rotary, part, attention.heads)
        value[:, part] = attention.to_v(normed)
    attended = _attention(attention, query, key, value)
    del query, key, value
    for part in slices(states.shape[1], CHUNK_TOKENS):
        out = attention.to_out[0](attended[:, part].flatten(2, 3).type_as(states))
        states[:, part] = (states[:, part].float() + out * gate).type_as(states)


def _attend_to_text(block: Any, states: torch.Tensor, text: torch.Tensor) -> None:
    attention = block.attn2
    key, value = attention.norm_k(attention.to_k(text)), attention.to_v(text)

    def attend(part: torch.Tensor) -> torch.Tensor:
        query = attention.norm_q(attention.to_q(block.norm2(part.float()).type_as(part)))
        attended = _attention(attention, query, key, value).flatten(2, 3).type_as(query)
        out: torch.Tensor = part + attention.to_out[0](attended)
        return out

    _in_place(states, attend)


def _attention(attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of [batch, tokens, channels], on the kernel that the block is set to; [batch, tokens, heads, channels of a head]."""
    heads = (_split(tensor, attention.heads) for tensor in (query, key, value))
    attended: torch.Tensor = dispatch_attention_fn(*heads, backend=attention.processor._attention_backend)
    return attended


def _modulated(norm: Any, states: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    modulated: torch.Tensor = (norm(states.float()) * (1 + scale) + shift).type_as(states)
    return modulated


def _rotated(projected: torch.Tensor, rotary: Rotary, part: slice, heads: int) -> torch.Tensor:
    """Rotary position embedding of pairs of channels, for the tokens of a slice."""
    cosine, sine = rotary[0][:, part, :, 0::2], rotary[1][:, part, :, 1::2]
    by_head = _split(projected, heads)
    first, second = by_head[..., 0::2], by_head[..., 1::2]
    pairs = torch.stack((first * cosine - second * sine, first * sine + second * cosine), dim=-1)
    return pairs.flatten(2).type_as(projected)


def _split(states: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, tokens, channels] as [batch, tokens, heads, channels of a head]."""
    return states.view(*states.shape[:2], heads, -1)


def _in_place(states: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for part in slices(states.shape[1], CHUNK_TOKENS):
        states[:, part] = change(states[:, part])
