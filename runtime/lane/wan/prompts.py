"""Prompts that must fit the text encoder's length with an ending that may not be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def join_prompt(prompt: str, ending: str, tokenizer: PreTrainedTokenizerFast, *, max_tokens: int) -> str:
    """The prompt, a space and the ending; of a prompt that is too long, the tail is cut instead of the ending.

    The text encoder reads `max_tokens` tokens, the closing one included, and drops the rest without a word.
    """
    room = max_tokens - len(tokenizer(f" {ending}").input_ids)
    spans = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    kept = prompt[: spans[room][0]] if len(spans) > room else prompt
    return f"{kept.rstrip()} {ending}"
