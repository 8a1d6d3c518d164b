"""Tiny parts with random weights and the real classes: tokenizer, text encoder, VAE. They prove the path, not the picture."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

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

# What was tried until a word or a picture moved most pixels visibly; nothing else depends on them.
_TEXT_SELECTIVITY = 4.0
_TEXT_GAIN = 4.0
_CONTROL_GAIN = 4.0
_OLDER_FRAMES_GAIN = 0.3
_BRANCH_GAIN = 0.1
_PICTURE_DEVIATION = 0.4

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
    vae = AutoencoderKLWan(
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
    with torch.no_grad():
        _make_encoder_sensitive(vae)
        _calibrate_encoder(vae)
        _calibrate_decoder(vae)
    return vae


def sharpen(transformer: WanTransformer3DModel | WanVACETransformer3DModel) -> None:
    """Makes each place of the clip listen to a few tokens of the prompt, and loudly; the same for VACE's control branch.

    With plain random weights it hears the mean of 512 tokens, most of them padding, so a word more or less would not show in the picture.
    """
    control_blocks = getattr(transformer, "vace_blocks", ())
    with torch.no_grad():
        for block in control_blocks:
            block.proj_out.weight.mul_(_CONTROL_GAIN)
        for block in (*transformer.blocks, *control_blocks):
            block.attn2.norm_k.weight.fill_(_TEXT_SELECTIVITY)
            block.attn2.to_out[0].weight.mul_(_TEXT_GAIN)


def _make_encoder_sensitive(vae: AutoencoderKLWan) -> None:
    """Makes a lone keyframe count in the middle of an empty clip almost as much as at its start, and its brightness count too.

    The norms of the middle block lift whatever stands there to full strength, so with plain random weights the biases of an empty clip
    drown every picture but the first. So its branches are made quiet, only the first layer keeps its biases (the measure of brightness),
    and each halving of time passes its newest frame on, which is where keyframes stand.
    """
    encoder = vae.encoder
    brightness = encoder.conv_in.bias.clone()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, WanResample) and module.mode == "downsample3d":
            module.time_conv.weight.mul_(_OLDER_FRAMES_GAIN)
            module.time_conv.weight[:, :, -1, 0, 0] = torch.eye(module.time_conv.weight.shape[0])
    encoder.conv_in.bias.copy_(brightness)
    for resnet in encoder.mid_block.resnets:
        resnet.conv2.weight.mul_(_BRANCH_GAIN)
    for attention in encoder.mid_block.attentions:
        attention.proj.weight.mul_(_BRANCH_GAIN)


def _calibrate_encoder(vae: AutoencoderKLWan) -> None:
    """Rescales the last layer so that pictures get latents of the mean and deviation that the config states, as in a trained VAE."""
    colours = torch.rand(16, 3, 1, 8, 8).mul(2.0).sub(1.0)
    pictures = torch.nn.functional.interpolate(colours, size=(1, 64, 64), mode="trilinear")
    latents = vae.encode(pictures).latent_dist.mean
    scale = torch.tensor(vae.config.latents_std) / latents.std(dim=(0, 2, 3, 4))
    shift = torch.tensor(vae.config.latents_mean) - latents.mean(dim=(0, 2, 3, 4)) * scale
    weight, bias = vae.quant_conv.weight[: vae.config.z_dim], vae.quant_conv.bias[: vae.config.z_dim]
    weight.mul_(scale.view(-1, 1, 1, 1, 1))
    bias.mul_(scale).add_(shift)


def _calibrate_decoder(vae: AutoencoderKLWan) -> None:
    """Rescales the last layer so that ordinary latents give pictures around mid-grey that use most of the range and seldom leave it."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    noise = torch.randn(1, vae.config.z_dim, 5, 16, 16)
    latents = noise * torch.tensor(vae.config.latents_std).view(shape) + torch.tensor(vae.config.latents_mean).view(shape)
    video = vae.decode(latents).sample
    scale = _PICTURE_DEVIATION / float(video.std())
    vae.decoder.conv_out.weight.mul_(scale)
    vae.decoder.conv_out.bias.sub_(float(video.mean())).mul_(scale)
