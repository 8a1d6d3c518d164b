"""Tiny parts with random weights and the real classes: tokenizer, text encoder, VAE. They prove the path, not the picture."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT_WIDTH = 32
"""Width of the tiny text encoder's output, the `text_dim` of the transformers."""

TRANSFORMER_SIZE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ffn_dim": 64,
    "text_dim": TEXT_WIDTH,
    "rope_max_seq_len": 1024,
}
"""Sizes that both models' tiny transformers share."""

_PAD, _END = "<pad>", "</s>"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, torch's random numbers are those of the seed; outside, nothing of it is seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def save_shared(folder: Path) -> None:
    """Builds the shared parts and saves each into its subfolder. Call it `seeded`."""
    build_tokenizer().save_pretrained(folder / "tokenizer")
    build_text_encoder().save_pretrained(folder / "text_encoder")
    build_vae().save_pretrained(folder / "vae")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE without merges: one token a byte, so text of any script stays told apart. Texts end in `</s>`, as with UMT5."""
    vocabulary = {token: number for number, token in enumerate((_PAD, _END, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, vocabulary[_END])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_END)


def build_text_encoder() -> UMT5EncoderModel:
    """A UMT5 encoder of two layers."""
    config = UMT5Config(
        vocab_size=258,
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config).eval()


def build_vae() -> AutoencoderKLWan:
    """A Wan VAE with the strides of the real one (4 in time, 8 in space) and 16 latent channels.

    It works on 2x2 patches, as the VAE of Wan 2.2 does: full-resolution convolutions and norms of few channels are what a CPU is slow at.
    """
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1],
        num_res_blocks=0,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    ).eval()
