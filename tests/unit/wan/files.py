"""Part folders for the tests: small networks saved as safetensors, and damaged copies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FILE = "diffusion_pytorch_model.safetensors"


def build_vace(**changes: Any) -> Any:
    """A VACE transformer of five layers, three of them controlled."""
    from diffusers import WanVACETransformer3DModel

    from runtime.lane.wan.tiny import TRANSFORMER_SIZE, seeded

    options: dict[str, Any] = {"num_layers": 5, "vace_layers": [0, 2, 3], "vace_in_channels": 24} | TRANSFORMER_SIZE | changes
    with seeded(21):
        return WanVACETransformer3DModel(in_channels=16, out_channels=16, **options).eval()


def save_part(folder: Path, module: Any) -> Path:
    """Saves it as part `transformer`, or `text_encoder` if it is one, of a model folder; returns that."""
    module.save_pretrained(folder / ("text_encoder" if hasattr(module, "shared") else "transformer"))
    return folder


def skeleton(folder: Path, name: str = "transformer") -> torch.nn.Module:
    """The part's network on the meta device."""
    from diffusers import WanVACETransformer3DModel

    from runtime.lane.wan.skeleton import make_diffusers_part, make_text_encoder

    return make_text_encoder(folder / name) if name == "text_encoder" else make_diffusers_part(WanVACETransformer3DModel, folder / name)


def rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Saves a file again with its tensors changed."""
    from safetensors.torch import load_file, save_file

    save_file(change(load_file(file)), file)


def change_header(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a file's header and leaves the rest."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def shard(folder: Path, parts: int = 3) -> None:
    """Splits the only file of a folder into several with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / FILE)
    places = {name: f"diffusion_pytorch_model-{number % parts + 1:05}-of-{parts:05}.safetensors" for number, name in enumerate(tensors)}
    for file in sorted(set(places.values())):
        save_file({name: tensors[name] for name in places if places[name] == file}, folder / file)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / FILE).unlink()


def copy(folder: Path, to: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(folder, to)
    return to
