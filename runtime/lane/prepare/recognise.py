"""Says what a set of tensors is, in words, so that a wrong file is named for what it is and not only by thousands of tensors."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.lane.prepare.published import PublishedTensor

_PATCHES = ("patch_embedding.weight",)
_ALL_IN_ONE = "model.diffusion_model."


def kind_of(tensors: Mapping[str, PublishedTensor], prefix: str = "") -> str:
    """What the tensors behind a prefix are; empty when nothing tells.

    Args:
        tensors: all of a source.
        prefix: of the network that was expected.
    """
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    if not names:
        tops = sorted({name.partition(".")[0] for name in tensors})
        return f"nothing in it begins with {prefix}; what is there begins with {', '.join(tops[:8])}"
    if not prefix and any(name.startswith(_ALL_IN_ONE) for name in names):
        return "it is an all-in-one file of ComfyUI, as Phr00t's are"
    if any("lora_" in name or ".lora." in name for name in names):
        return "it is a LoRA, which changes a model and is none"
    if any("vace_blocks." in name for name in names):
        return "it is a VACE transformer, as Phr00t's Mega"
    if any("img_emb." in name or ".k_img." in name or "image_embedder" in name for name in names):
        return (
            "it is an image-to-video transformer of Wan 2.1, with cross-attention to CLIP images (AniSora V3 and older; Phr00t before Mega)"
        )
    if any("motion_encoder" in name or "face_adapter" in name for name in names):
        return "it is Wan Animate"
    if any(name.startswith("encoder.block.") for name in names):
        return "it is a text encoder"
    if any(name.startswith(("decoder.", "encoder.")) for name in names):
        return "it is a VAE"
    return _by_channels(tensors, prefix)


def _by_channels(tensors: Mapping[str, PublishedTensor], prefix: str) -> str:
    for name in _PATCHES:
        tensor = tensors.get(prefix + name)
        if tensor is not None and len(tensor.shape) > 1:
            kinds = {16: "a text-to-video transformer", 36: "an image-to-video transformer", 48: "a transformer of Wan 2.2 5B"}
            return f"it takes {tensor.shape[1]} channels: {kinds.get(tensor.shape[1], 'of a model that is not known here')}"
    return ""
