"""Component folders of the Wan models: where they lie, how a part is loaded, and how a folder of tiny parts is made once."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

if TYPE_CHECKING:
    from collections.abc import Callable

TINY_PROFILE = "tiny"
PREPARED_PROFILE = "a10g"

DTYPES = {TINY_PROFILE: torch.float32, PREPARED_PROFILE: torch.bfloat16}
"""Type of the weights by profile. float32 for the tiny ones: many CPUs have no fast bfloat16 convolution."""


class ModelFolderMissingError(Exception):
    """The prepared checkpoint of a model is not on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedParts:
    """The parts that every Wan pipeline has beside its transformers."""

    tokenizer: PreTrainedTokenizerFast
    text_encoder: UMT5EncoderModel
    vae: AutoencoderKLWan


def silence_libraries() -> None:
    """Turns off what diffusers and transformers would print: progress bars of loading, and advice."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


def model_folder(
    model: str, profile: str, models_dir: Path, *, build_tiny: Callable[[Path], None], on_stage: Callable[[str], None]
) -> Path:
    """The folder with the model's parts, one subfolder each; a tiny one is built when it is missing.

    Raises:
        ModelFolderMissingError: the profile needs a prepared checkpoint and there is none.
        ValueError: the profile is unknown.
    """
    if profile == TINY_PROFILE:
        folder = models_dir / f"{model}-tiny-v1"
        if not folder.is_dir():
            on_stage("making the tiny components")
            build_once(folder, build_tiny)
        return folder
    if profile == PREPARED_PROFILE:
        folder = models_dir / model
        if not folder.is_dir():
            msg = f"the weights of {model} are missing: {folder} is not a folder. `warmlane prepare`, of a later release, makes it"
            raise ModelFolderMissingError(msg)
        return folder
    msg = f"the profile must be {TINY_PROFILE} or {PREPARED_PROFILE}, not {profile!r}"
    raise ValueError(msg)


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Makes `folder` by `build(empty folder)`, wholly or not at all. When another process does the same at once, the first one's stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build(unfinished)
        try:
            unfinished.rename(folder)  # fails when the folder is there and not empty
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_shared(folder: Path, dtype: torch.dtype, on_stage: Callable[[str], None]) -> SharedParts:
    """Loads tokenizer, text encoder and VAE from their subfolders; nothing is looked up on a network."""
    on_stage("loading the text encoder")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True)
    text_encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, local_files_only=True)
    on_stage("loading the VAE")
    return SharedParts(tokenizer=tokenizer, text_encoder=text_encoder, vae=load_part(AutoencoderKLWan, folder / "vae", dtype))


def load_part(part_class: type, folder: Path, dtype: torch.dtype) -> Any:
    """Loads one diffusers model from its folder, in evaluation mode."""
    return part_class.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)  # type: ignore[attr-defined]


def place(pipe: Any, profile: str, device: str) -> None:
    """Puts a pipeline's weights where they work: on the device; those of a prepared checkpoint on a GPU one part at a time."""
    if profile == PREPARED_PROFILE and torch.device(device).type != "cpu":
        pipe.vae.enable_tiling()  # 9.1 GiB become 2.0 for a decode at 1280x720x81 (facts/models.md, section 4)
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
