"""Component folders of the Wan models: where they lie, how a folder of tiny parts is made once, and what each part computes in."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers.utils.logging
import torch
import transformers.utils.logging

from runtime.fit.ladder import ALL_TRANSFORMERS, TEXT_ENCODER, VAE
from runtime.lane.renderer import ModelFilesMissingError, ModelFilesUnusableError
from runtime.lane.wan.manifest import ManifestError, open_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.lane.memory.port import DeviceMemory

TINY_PROFILE = "tiny"
PREPARED_PROFILE = "a10g"


class ModelFolderError(ModelFilesUnusableError):
    """The prepared checkpoint of a model cannot be used; the message says why and what to do, for operators."""


class ModelFolderMissingError(ModelFolderError, ModelFilesMissingError):
    """It is not on this machine."""


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
        ModelFolderError: there is one, and it is not whole, of another model, or of a format that this program does not know.
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
            msg = f"the weights of {model} are missing: {folder} is not a folder. `warmlane prepare {model}` makes it"
            raise ModelFolderMissingError(msg)
        try:
            open_folder(folder, model)
        except ManifestError as error:
            msg = f"the weights of {model} cannot be used: {error}"
            raise ModelFolderError(msg) from error
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


def compute_types(profile: str, memory: DeviceMemory) -> dict[str, torch.dtype]:
    """The type that each part computes in, whatever its weights are stored in.

    bfloat16; on a GPU that has none, float16, but float32 for the text encoder, whose states outgrow float16 (transformers clamps them).
    float32 for tiny parts: many CPUs have no fast bfloat16 convolution.
    """
    others = text = torch.float32
    if profile != TINY_PROFILE:
        others = text = torch.bfloat16
        if torch.device(memory.device).type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            others, text = torch.float16, torch.float32
    return {TEXT_ENCODER: text, VAE: others} | dict.fromkeys(ALL_TRANSFORMERS, others)
