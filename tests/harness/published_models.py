"""Both models as their authors publish them, small and with random weights: networks, files, sizes, and what a lane should compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.harness.published_layouts import (
    Format,
    as_stored,
    native_transformer,
    native_vae,
    publish,
    renamed,
    save,
    save_sharded,
)

if TYPE_CHECKING:
    import torch

    Networks = Mapping[str, torch.nn.Module]

BOTH = ("anisora", "phr00t")
FILE = "diffusion_pytorch_model.safetensors"
CHECKPOINT = "Mega-v12/wan2.2-rapid-mega-aio-v12.safetensors"
HIGH, LOW = f"V3.2/high_noise_model/{FILE}", f"V3.2/low_noise_model/{FILE}"

_TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 64, "text_dim": 32}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "anisora": {"num_layers": 2, **_TRANSFORMER},
    "phr00t": {"num_layers": 3, "vace_layers": [0, 2], **_TRANSFORMER},
}
_TEXT_ENCODER = {"vocab_size": 258, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
# Four levels with two residual blocks each, as the real one: its native names count them.
_VAE = {"base_dim": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """A model's files.

    Attributes:
        folder: of all of them, laid out as in the repositories.
        sources: by the options of `warmlane prepare`.
        sizes: the file for `--sizes`.
        meaning: the numbers in the files, by part and the network's names.
    """

    model: str
    folder: Path
    sources: Mapping[str, Path]
    sizes: Path
    meaning: Mapping[str, Mapping[str, torch.Tensor]]

    def options(self) -> list[str]:
        """Of `warmlane prepare`."""
        named = [text for name, path in self.sources.items() for text in (f"--{name}", str(path))]
        return ["--sizes", str(self.sizes), *named]


def build_networks(model: str, seed: int = 5, *, with_t2v: bool = False) -> dict[str, torch.nn.Module]:
    """The networks by part, with random weights that bfloat16 holds."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from runtime.lane.wan.tiny import seeded, sharpen

    def expert(channels: int) -> Any:
        return WanTransformer3DModel(in_channels=channels, out_channels=16, **SIZES["anisora"])

    with seeded(seed):
        made: dict[str, Any] = {
            "text_encoder": UMT5EncoderModel(UMT5Config(feed_forward_proj="gated-gelu", **_TEXT_ENCODER)),
            "vae": AutoencoderKLWan(**_VAE),
        }
        if model == "anisora":
            made |= {"transformer": expert(36), "transformer_2": expert(36)}
        else:
            made["transformer"] = WanVACETransformer3DModel(in_channels=16, out_channels=16, **SIZES["phr00t"])
        if with_t2v:
            made |= {"t2v_transformer": expert(16), "t2v_transformer_2": expert(16)}
        for name, network in made.items():
            if "transformer" in name:
                sharpen(network)
    for network in made.values():
        network.eval().requires_grad_(False)
        # Not `network.to`: position tables, which no file holds, are computed in float32 whatever the weights are in.
        for parameter in network.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    return made


def write_published(model: str, folder: Path, style: Format = Format.BF16, *, seed: int = 5, with_t2v: bool = False) -> PublishedModel:
    """Writes every file of a model. The matrices are in the given format; where a publisher has none of it (the VAE), in bf16 or fp32."""
    networks = build_networks(model, seed, with_t2v=with_t2v)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = folder / "sizes.json"
    document = {"name": "trial", "text_encoder": _TEXT_ENCODER, "vae": _VAE, "transformer": SIZES[model]}
    sizes.write_text(json.dumps(document, indent=2))
    _write_tokenizer(folder / "base" / "tokenizer")
    write = _write_anisora if model == "anisora" else _write_phr00t
    sources, meaning = write(networks, folder, style)
    return PublishedModel(model=model, folder=folder, sources=sources, sizes=sizes, meaning=meaning)


def reference_networks(published: PublishedModel, storage: str) -> dict[str, torch.nn.Module]:
    """The libraries' own networks in bfloat16 with the numbers of the files, rounded as they are stored: what a lane must agree with."""
    with_t2v = any(name.startswith("t2v") for name in published.meaning)
    networks = build_networks(published.model, with_t2v=with_t2v)
    for name, network in networks.items():
        loaded = network.load_state_dict(as_stored(published.meaning[name], storage), strict=False)
        assert not loaded.unexpected_keys
        assert set(loaded.missing_keys) <= {"encoder.embed_tokens.weight"}
    return networks


def tensors_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """As float32, without the second name of a tied tensor."""
    return {name: tensor.float() for name, tensor in network.state_dict().items() if name != "encoder.embed_tokens.weight"}


def _write_tokenizer(folder: Path) -> None:
    from runtime.lane.wan.tiny import build_tokenizer

    build_tokenizer().save_pretrained(folder)
    # As in Wan's repository, whose class is another than the one that lanes load it by.
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "T5Tokenizer"}))


def _write_anisora(networks: Networks, folder: Path, style: Format) -> tuple[dict[str, Path], dict[str, Any]]:
    # The authors publish bf16 experts; Wan's repository a VAE in float32. Scales belong to files of ComfyUI, but may be met anywhere.
    made = {name: publish(tensors_of(network), style) for name, network in networks.items() if "transformer" in name}
    made["text_encoder"] = publish(tensors_of(networks["text_encoder"]), Format.FP32 if style is Format.FP32 else Format.BF16)
    made["vae"] = publish(tensors_of(networks["vae"]), Format.FP32)
    sources = {
        "high": save(renamed(made["transformer"].tensors, native_transformer), folder / HIGH),
        "low": save(renamed(made["transformer_2"].tensors, native_transformer), folder / LOW),
        "base": folder / "base",
    }
    save_sharded(made["text_encoder"].tensors, folder / "base" / "text_encoder", "model")
    save(made["vae"].tensors, folder / "base" / "vae" / FILE)
    if "t2v_transformer" in made:
        stem = FILE.removesuffix(".safetensors")
        sources["t2v-high"] = save_sharded(made["t2v_transformer"].tensors, folder / "t2v" / "transformer", stem)
        sources["t2v-low"] = save(renamed(made["t2v_transformer_2"].tensors, native_transformer), folder / "t2v" / "transformer_2" / FILE)
    return sources, {name: one.meaning for name, one in made.items()}


def _write_phr00t(networks: Networks, folder: Path, style: Format) -> tuple[dict[str, Path], dict[str, Any]]:
    import torch

    # In fp8 files the embedding, which is no matrix of a block, has two bytes a number, and so has the VAE (facts/models.md, section 2).
    text_style = Format.FP8 if style is Format.FP8_WHOLE else style
    made = {
        "transformer": publish(tensors_of(networks["transformer"]), style),
        "text_encoder": publish(tensors_of(networks["text_encoder"]), text_style),
        "vae": publish(tensors_of(networks["vae"]), Format.FP32 if style is Format.FP32 else Format.BF16),
    }
    tensors = {
        **renamed(made["transformer"].tensors, native_transformer, "model.diffusion_model."),
        **renamed(made["text_encoder"].tensors, str, "text_encoders.umt5xxl.transformer."),
        **renamed(made["vae"].tensors, native_vae, "vae."),
        "text_encoders.spiece_model": torch.arange(64, dtype=torch.uint8),
        "text_encoders.umt5xxl.logit_scale": torch.tensor(4.6055),
    }
    sources = {"checkpoint": save(tensors, folder / CHECKPOINT), "base": folder / "base"}
    return sources, {name: one.meaning for name, one in made.items()}
